//! The orchestrator runs on login nodes: it starts in milliseconds and needs neither libtorch nor MPI.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::binary;

#[test]
fn help_takes_less_than_20_milliseconds() {
    let once = || {
        let started = Instant::now();
        let status = Command::new(binary("orchestrator")).arg("--help").stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..21).map(|_| once()).collect();
    times.sort_unstable();
    // The median: other tests run on the same cores.
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(20), "median {median:?}, all {times:?}");
}

#[test]
fn it_links_neither_libtorch_nor_mpi() {
    let libraries = |name| {
        let output = Command::new("ldd").arg(binary(name)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let heavy = |libraries: &str| ["torch", "c10", "mpi"].map(|library| libraries.contains(&format!("lib{library}")));
    assert_eq!(heavy(&libraries("worker")), [true; 3], "the test would see them");
    assert_eq!(heavy(&libraries("orchestrator")), [false; 3]);
}
