//! Stopping a run on purpose, or because Slurm says so, and going on.

use common::journal::Event;

use super::faults::preempt;
use super::{ClusterLab, PATIENCE, STEPS, claim};
use crate::records::newest_checkpoint;

#[test]
fn stop_from_the_login_node_saves_and_resume_goes_on() {
    let Some(cluster) = claim("stopping::stop_from_the_login_node_saves_and_resume_goes_on") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 10);
    lab.orchestrator(&["stop", "runs/tiny"]).expect_success();
    launch.wait(PATIENCE).expect_code(143);
    let saved = newest_checkpoint(&lab.run()).unwrap();
    assert!((10..STEPS).contains(&saved), "saved at step {saved}");
    lab.orchestrator(&["launch", "--resume", "runs/tiny", "--nodes", "4", "--wait"]).expect_success();
    lab.assert_undisturbed_weights();
}

#[test]
fn a_cancelled_job_saves_and_stays_away() {
    let Some(cluster) = claim("stopping::a_cancelled_job_saves_and_stays_away") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 10);
    cluster.run("scancel", &["--user", "root"]);
    launch.wait(PATIENCE).expect_code(143);
    assert!(newest_checkpoint(&lab.run()).unwrap() >= 10);
    assert_eq!(lab.count(|event| matches!(event, Event::Requeued { .. })), 0);
    lab.assert_nothing_left();
}

#[test]
fn a_preempted_run_saves_goes_back_into_the_queue_and_ends_with_the_same_weights() {
    let Some(cluster) = claim("stopping::a_preempted_run_saves_goes_back_into_the_queue_and_ends_with_the_same_weights") else {
        return;
    };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 10);
    preempt(&lab, &mut launch);
    let saved = newest_checkpoint(&lab.run()).unwrap();
    assert!((10..STEPS).contains(&saved), "saved at step {saved}");
    launch.wait(PATIENCE).expect_success();
    lab.assert_undisturbed_weights();
}

#[test]
fn a_run_whose_time_is_over_saves_before_and_goes_back_into_the_queue() {
    let Some(cluster) = claim("stopping::a_run_whose_time_is_over_saves_before_and_goes_back_into_the_queue") else { return };
    let lab = ClusterLab::new(&cluster);
    let arguments = ["launch", "--config", "tiny.toml", "--nodes", "4", "--wait", "--set", "cluster.slurm.time=00:01:00"];
    let mut launch = lab.start(&[&arguments[..], &["--set", "train.steps=9000"]].concat());
    let requeued = || lab.entries().into_iter().find(|entry| matches!(entry.event, Event::Requeued { .. }));
    let entry = launch.wait_until("the requeue", PATIENCE, requeued);
    assert!(entry.reason.contains("the end of the allocation"), "{}", entry.reason);
    let job = lab.slurm_job();
    cluster.wait_for_job(&job, &["PENDING"]);
    assert!(newest_checkpoint(&lab.run()).unwrap() > 100);
    lab.orchestrator(&["stop", "runs/tiny"]).expect_success();
    launch.wait(PATIENCE).expect_code(143);
    lab.assert_nothing_left();
}
