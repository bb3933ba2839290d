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

/// What a script in `tests/peers/` says and whether it ended well; none, with a line for the summary of `make test`, without diffusers.
fn run_script(test: &str, script: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let Some(python) = python_with("diffusers") else {
        // Past the capture of test output, which takes what is printed.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped peers::{test}: diffusers is not installed (make peers)").unwrap();
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
    let output = Command::new(&python).arg(&script).args(arguments).output().unwrap();
    Some((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

#[test]
fn networks_and_gradients_are_those_of_diffusers_blocks() {
    let name = "networks_and_gradients_are_those_of_diffusers_blocks";
    let mut said = String::new();
    // Where rounding puts the input of a ReLU on the other side of zero, gradients part ways: that is up to the seed and the processor.
    // Networks that differ do so with every seed.
    for seed in ["1", "2", "3"] {
        let Some((agree, text)) = run_script(name, "parity.py", &["--seed", seed]) else { return };
        if agree {
            return;
        }
        said += &text;
    }
    panic!("{said}");
}

#[test]
fn samplers_and_schedules_are_those_of_diffusers() {
    let result = run_script("samplers_and_schedules_are_those_of_diffusers", "samplers.py", &[]);
    assert!(result.as_ref().is_none_or(|(agree, _)| *agree), "{}", result.unwrap_or_default().1);
}
