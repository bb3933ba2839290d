//! Comparison with other implementations, where they are installed (`make peers`); the scripts in `tests/peers/` do the work.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python of the virtual environment, if it has `package`.
fn python_with(package: &str) -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    let found = Command::new(&python).args(["-c", &format!("import {package}")]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn networks_and_gradients_are_those_of_diffusers_blocks() {
    let Some(python) = python_with("diffusers") else {
        // Past the capture of test output, for the summary of `make test`.
        let name = "peers::networks_and_gradients_are_those_of_diffusers_blocks";
        writeln!(std::io::stderr(), "skipped {name}: diffusers is not installed (make peers)").unwrap();
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/parity.py");
    let mut said = String::new();
    // Where rounding puts the input of a ReLU on the other side of zero, gradients part ways: that is up to the seed and the processor.
    // Networks that differ do so with every seed.
    let agree = ["1", "2", "3"].iter().any(|seed| {
        let output = Command::new(&python).arg(&script).args(["--seed", seed]).output().unwrap();
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
        output.status.success()
    });
    assert!(agree, "{said}");
}
