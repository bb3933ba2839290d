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
fn a_run_whose_time_is_over_saves_before_and_another_job_goes_on_where_it_may_not_be_requeued() {
    let Some(cluster) =
        claim("stopping::a_run_whose_time_is_over_saves_before_and_another_job_goes_on_where_it_may_not_be_requeued")
    else {
        return;
    };
    let lab = ClusterLab::new(&cluster);
    let arguments = ["launch", "--config", "tiny.toml", "--nodes", "4", "--wait", "--set", "cluster.slurm.time=00:01:00"];
    let more = ["--set", "train.steps=9000", "--set", "cluster.slurm.options=[\"--no-requeue\"]"];
    let mut launch = lab.start(&[&arguments[..], &more].concat());
    let first =
        launch.wait_until("the submission", PATIENCE, || lab.run().journal().exists().then(|| lab.entries().pop()).flatten());
    assert!(matches!(first.event, Event::Submitted { .. }));
    let next = launch.wait_until("the next job", PATIENCE, || {
        let other = |entry: common::journal::Entry| match entry.event {
            Event::Requeued { slurm_job } if slurm_job != lab.slurm_job() => Some((slurm_job, entry.reason)),
            _ => None,
        };
        lab.entries().into_iter().find_map(other)
    });
    assert!(next.1.starts_with("the end of the allocation: "), "{}", next.1);
    let saved = newest_checkpoint(&lab.run()).unwrap();
    assert!(saved > 100, "saved at step {saved}");
    lab.wait_for_step(&mut launch, 2, saved + 1);
    assert_eq!(cluster.job(&next.0, "JobState"), "RUNNING");
    lab.orchestrator(&["stop", "runs/tiny"]).expect_success();
    launch.wait(PATIENCE).expect_code(143);
    lab.assert_nothing_left();
}
