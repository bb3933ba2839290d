//! What is asked of a trained model, by the real binaries: what it can do with whatever images there are, and what it cannot do, told in
//! one line and at once.

use std::fs;

use common::job::Job;
use common::journal::{self, Event};

use crate::importing::{IMPORT, with_pictures};
use crate::lab::{Lab, PATIENCE};

const SHORT: [&str; 2] = ["--set", "train.steps=2"];

#[test]
fn photographs_are_composed_and_edited_and_judged_by_nobody() {
    let lab = with_pictures();
    lab.launch(&IMPORT).expect_success();
    for job in ["autoencoder", "encode", "train"] {
        lab.launch(&[&["--job", job], &SHORT[..]].concat()).expect_success();
    }
    let start = |job: &str, more: &[&str]| lab.launch(&[&["--job", job], &SHORT[..], more].concat());
    start("compose", &[]).expect_success();
    start("edit", &["--set", "edit.recipe=[{ name = \"less\", image = 0, remove = [1] }]"]).expect_success();
    for name in ["library.png", "compose.png", "edit.png", "edits/less.png"] {
        assert!(lab.run().pictures().join(name).is_file(), "{name}");
    }
    start("evaluate", &[]).expect_refusal(&["data/latents/validation", "no masks", "evaluate needs them"]);
    let inception = ["fid.weights", "absent.safetensors", "docs/gallery.md"];
    start("compose", &["--set", "fid.weights=absent.safetensors"]).expect_refusal(&inception);
    assert!(!lab.run().evaluation().exists() && !lab.run().distances().exists());
}

/// Nothing of such a job is kept half-way: it ends when it is asked to, not when it has painted, and begins anew.
#[test]
fn a_job_that_has_nothing_to_save_ends_when_it_is_asked_to() {
    let lab = Lab::prepared();
    lab.launch(&SHORT).expect_success();
    let evaluate = ["launch", "--resume", "runs/tiny", "--job", "evaluate"];
    let mut launch = lab.start(&[&evaluate[..], &["--set", "evaluate.sampling_steps=999"]].concat());
    let log = lab.run().job_dir(Job::Evaluate).log_file(1, 0);
    let has_begun = || fs::read_to_string(&log).ok().filter(|text| text.contains("evaluate on the CPU"));
    launch.wait_until("evaluating", PATIENCE, has_begun);
    lab.start(&["stop", "runs/tiny", "--job", "evaluate"]).wait(PATIENCE).expect_success();
    launch.wait(PATIENCE).expect_code(143);
    assert!(!lab.run().evaluation().exists(), "it was not waited for");
    lab.start(&evaluate).wait(PATIENCE).expect_success();
    assert!(lab.run().evaluation().is_file());
}

/// Rank 0 alone reads checkpoints: no other worker waits for it, and nobody is started again.
#[test]
fn two_workers_without_a_checkpoint_or_with_that_of_another_network_end_at_once() {
    let lab = Lab::prepared();
    lab.launch(&SHORT).expect_success();
    let run_toml = lab.run().run_toml();
    let text = fs::read_to_string(&run_toml).unwrap();
    let other = text.replace("mlp_hidden = 16\n", "mlp_hidden = 24\n");
    assert_ne!(text, other);
    fs::write(&run_toml, other).unwrap();
    let evaluate = || lab.start(&["launch", "--resume", "runs/tiny", "--job", "evaluate"]).wait(PATIENCE);
    evaluate().expect_refusal(&["runs/tiny/checkpoints/", "not those of the configured network", "[16, 16] instead of [24, 16]"]);
    fs::write(&run_toml, text).unwrap();
    fs::remove_dir_all(lab.run().checkpoints()).unwrap();
    evaluate().expect_refusal(&["runs/tiny/checkpoints: no checkpoint here; train the run first"]);
    assert!(!lab.run().evaluation().exists() && !lab.run().pictures().exists());
    let entries = journal::read(&lab.run().job_dir(Job::Evaluate).journal()).unwrap();
    let starts = entries.iter().filter(|entry| matches!(entry.event, Event::GenerationStarted { .. })).count();
    assert_eq!(starts, 2, "once for each launch");
}
