//! The whole trainer over NCCL, without a GPU: a stand-in for NCCL's library reduces between CPUs. Workers meet through the control
//! channel, no MPI is involved.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::lab::{Lab, PATIENCE, binary};
use crate::processes::Running;
use crate::records::{final_weights, generations, last_step, newest_checkpoint, series};

const STEPS: u64 = 40;

/// `launch --config tiny.toml` with `workers` workers over the stand-in.
fn start(lab: &Lab, workers: usize, settings: &[&str]) -> Running {
    let workers = format!("cluster.workers_per_node={workers}");
    let fixed = ["cluster.collective=nccl", "cluster.device=cpu", &workers];
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml"]).current_dir(lab.path());
    command.args(fixed.iter().chain(settings).flat_map(|setting| ["--set", setting]));
    command.env("NCCL_LIB", nccl_stand_in::library_path().unwrap());
    Running::start_piped(command)
}

/// The log of rank 0 of the first start.
fn log(lab: &Lab) -> String {
    fs::read_to_string(lab.run().log_file(1, 0)).unwrap()
}

#[test]
fn two_and_three_workers_train_over_nccl_as_over_mpi() {
    let over_mpi = Lab::prepared();
    over_mpi.launch(&[]).expect_success();
    let expected = series(&over_mpi.run(), "loss");
    for workers in [2, 3] {
        // Several buckets, so that sums overtake computation.
        let lab = Lab::prepared();
        let settings = ["train.reduction.first_bucket_mib=0.01", "train.reduction.bucket_mib=0.05"];
        start(&lab, workers, &settings).wait(PATIENCE).expect_success();
        assert!(log(&lab).contains("NCCL 2."), "{}", log(&lab));
        let found = series(&lab.run(), "loss");
        assert_eq!(found.len(), expected.len());
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        assert!(difference < 1e-3, "{workers} workers: {difference}");
        if workers == 2 {
            assert_eq!(final_weights(&lab.run(), STEPS), final_weights(&over_mpi.run(), STEPS), "two addends have one sum");
        }
    }
}

/// Wherever the others are in a reduction, they do not hang, and it is not them who are blamed.
#[test]
fn a_worker_killed_amid_reductions_is_replaced_and_no_weight_changes() {
    let undisturbed = Lab::prepared();
    start(&undisturbed, 3, &[]).wait(PATIENCE).expect_success();
    let lab = Lab::prepared();
    let mut launch = start(&lab, 3, &[]);
    launch.wait_until("a checkpoint", PATIENCE, || newest_checkpoint(&lab.run()));
    let workers = launch.descendants("worker");
    assert_eq!(workers.len(), 3);
    kill(workers[1], Signal::SIGKILL).unwrap();
    launch.wait(PATIENCE).expect_success();
    assert_eq!(generations(&lab.run()), 2);
    let why = lab.start(&["why", "runs/tiny"]).wait(PATIENCE);
    assert!(why.stdout.contains("killed by signal 9 (SIGKILL)"), "{}", why.stdout);
    assert_eq!(final_weights(&lab.run(), STEPS), final_weights(&undisturbed.run(), STEPS));
}

/// An NCCL that cannot be had is named with what was tried, before the first step.
#[test]
fn a_library_that_is_none_is_refused_by_name() {
    let lab = Lab::prepared();
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml", "--set", "cluster.collective=nccl", "--set", "cluster.device=cpu"]);
    command.env("NCCL_LIB", "/nowhere/libnccl.so.2").current_dir(lab.path());
    let ended = Running::start_piped(command).wait(PATIENCE);
    assert_ne!(ended.code(), 0);
    assert!(ended.stderr.contains("/nowhere/libnccl.so.2"), "{}", ended.stderr);
    assert_eq!(last_step(&lab.run()), None);
}
