//! Rehearsals: what they report is what happened, and they notice a difference.

use serde_json::Value;

use crate::lab::{Lab, PATIENCE};

#[test]
fn a_rehearsed_fault_is_measured_and_changes_nothing() {
    let lab = Lab::prepared();
    for (fault, rank) in [("kill-rank", "1"), ("full-disk", "1"), ("preempt", "0")] {
        let arguments =
            ["rehearse", fault, "--config", "tiny.toml", "--at-step", "13", "--rank", rank, "--set", "train.steps=24", "--json"];
        let ended = lab.start(&arguments).wait(PATIENCE);
        let report: Value = serde_json::from_str(&ended.expect_success().stdout).unwrap();
        // A full disk shows at the next save.
        let step = if fault == "full-disk" { 16 } else { 13 };
        assert_eq!((report["step"].as_u64(), report["steps"].as_u64()), (Some(step), Some(24)), "{report}");
        assert_eq!((report["steps_that_differ"].as_u64(), report["parts_that_differ"].as_array().unwrap().len()), (Some(0), 0));
        let (detected, recovered) = (report["detected_after"].as_f64().unwrap(), report["recovered_after"].as_f64().unwrap());
        assert!(detected < recovered, "{report}");
        // The checkpoint before was of step 8; who is asked to stop saves first.
        let redone = if fault == "preempt" { 0 } else { step - 8 };
        assert_eq!(report["steps_redone"].as_u64(), Some(redone), "{report}");
    }
}

#[test]
fn a_step_beyond_the_run_and_a_rank_that_is_not_there_are_refused() {
    let lab = Lab::empty();
    let refused = |arguments: &[&str], words: &[&str]| {
        let arguments = [&["rehearse", "hang", "--config", "tiny.toml"], arguments].concat();
        lab.start(&arguments).wait(PATIENCE).expect_refusal(words);
    };
    refused(&["--at-step", "40"], &["--at-step 40", "from 1 to 39"]);
    refused(&["--at-step", "4", "--rank", "2"], &["--rank 2", "2 workers"]);
}
