//! When a run saves, where, and what it keeps: the keys of `[checkpoint]`.

use std::fs;

use common::checkpoint::CheckpointStore;
use common::run_dir::RunDir;
use common::storage::Store;

use crate::lab::{Lab, PATIENCE};
use crate::records::{final_weights, lines, newest, series, wait_for, weights_in};
use crate::survival::{STEPS, undisturbed};

/// The steps of all checkpoints in the run's folder, newest first.
fn saved(run: &RunDir) -> Vec<u64> {
    let store = CheckpointStore::new(Store::open(&run.checkpoints().display().to_string()).unwrap());
    wait_for(store.list()).unwrap().iter().map(|listed| listed.step).collect()
}

/// The steps of all checkpoints that were committed, in order.
fn committed(run: &RunDir) -> Vec<u64> {
    let events = lines(&run.journal());
    let committed = events.iter().filter(|event| event["event"] == "checkpoint-committed");
    committed.filter_map(|event| event["step"].as_u64()).collect()
}

#[test]
fn the_last_the_best_and_every_so_many_are_kept() {
    let lab = Lab::prepared();
    let keep = ["checkpoint.every_steps=4", "checkpoint.keep_last=2", "checkpoint.keep_every=16", "checkpoint.keep_best=1"];
    lab.launch(&keep.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>()).expect_success();
    let loss = series(&lab.run(), "loss");
    let best = (4..=STEPS).step_by(4).min_by(|a, b| loss[*a as usize - 1].total_cmp(&loss[*b as usize - 1])).unwrap();
    let mut expected = vec![40, 36, 32, 16, best];
    expected.sort_unstable();
    expected.dedup();
    expected.reverse();
    assert_eq!(saved(&lab.run()), expected, "the best is step {best}");
}

/// Of held-out objects, more is better.
#[test]
fn the_one_that_finds_held_out_objects_best_is_kept() {
    let lab = Lab::prepared();
    let keep = ["checkpoint.every_steps=2", "checkpoint.keep_best=1", "checkpoint.best_by=miou", "train.evaluation.every_steps=2"];
    lab.launch(&keep.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>()).expect_success();
    let records = lines(&lab.run().metrics());
    let found = records.iter().filter_map(|record| Some((record["step"].as_u64()?, record["evaluation/miou"].as_f64()?)));
    let found: Vec<_> = found.collect();
    assert_eq!(found.len() as u64, STEPS / 2);
    // Of equal ones, the newer.
    let best = found.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    let mut expected = vec![STEPS, STEPS - 2, best];
    expected.sort_unstable();
    expected.dedup();
    expected.reverse();
    assert_eq!(saved(&lab.run()), expected, "{found:?}");
    let listed = lab.start(&["checkpoints", "list", "runs/tiny"]).wait(PATIENCE);
    assert!(listed.stdout.contains("miou"), "{}", listed.stdout);
}

#[test]
fn minutes_without_a_checkpoint_are_enough_for_one() {
    let lab = Lab::prepared();
    let often =
        ["--set", "checkpoint.every_steps=1000", "--set", "checkpoint.every_minutes=0.004", "--set", "checkpoint.keep_last=100"];
    lab.launch(&often).expect_success();
    let steps = saved(&lab.run());
    assert!(steps.len() > 1 && steps[0] == STEPS, "{steps:?}");
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}

/// Saving in many places takes longer than a step.
#[test]
fn a_checkpoint_that_comes_too_early_is_left_out_and_every_place_has_the_last_one() {
    let lab = Lab::prepared();
    let places: Vec<_> = (0..8).map(|index| lab.path().join(format!("place-{index}"))).collect();
    let also = format!("checkpoint.also={:?}", places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>());
    lab.launch(&["--set", &also, "--set", "checkpoint.every_steps=1", "--set", "checkpoint.when_busy=\"skip\""]).expect_success();
    let log = fs::read_to_string(lab.run().log_file(1, 0)).unwrap();
    assert!(log.contains("no checkpoint: the one before is still being saved"), "{log}");
    assert!(committed(&lab.run()).len() < STEPS as usize, "{:?}", committed(&lab.run()));
    for place in &places {
        assert_eq!(&weights_in(place, STEPS), undisturbed());
    }

    // The first place is lost, as a scratch disk is with its host: the run has what it needs elsewhere, and puts it back.
    fs::remove_dir_all(lab.run().checkpoints()).unwrap();
    lab.start_resume().wait(PATIENCE).expect_success();
    assert_eq!(newest(&lab.run().checkpoints()).unwrap().1.step, STEPS);
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}
