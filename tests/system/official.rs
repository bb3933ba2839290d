//! Weights leave a run in the official layout and enter another by it. (What diffusers says to them: [`crate::peers`].)

use crate::lab::{Ended, Lab, PATIENCE};
use crate::snapshot::snapshot;

fn export(lab: &Lab, run: &str, to: &str, average: bool) -> Ended {
    let average: &[&str] = if average { &["--ema"] } else { &[] };
    lab.start(&[&["checkpoints", "export", run, "--to", to], average].concat()).wait(PATIENCE)
}

#[test]
fn an_exported_checkpoint_starts_another_run() {
    let lab = Lab::prepared();
    lab.launch(&["--set", "train.steps=8"]).expect_success();
    for (to, average) in [("exported", false), ("average", true)] {
        export(&lab, "runs/tiny", to, average).expect_success();
    }
    let content = |folder: &str| snapshot(&lab.path().join(folder));
    let exported = content("exported");
    assert_eq!(exported.values().flatten().count(), 6, "two files for each network: {:?}", exported.keys());
    assert_ne!(exported, content("average"));
    export(&lab, "runs/tiny", "exported", false).expect_refusal(&["exported", "choose another folder"]);
    export(&lab, "runs/absent", "elsewhere", false).expect_refusal(&["runs/absent"]);

    // A step that moves nothing.
    let still = ["backbone", "slot_attention", "unet"].map(|group| format!("train.groups.{group}.learning_rate=0"));
    let mut arguments = vec!["--set", "run.name=second", "--set", "model.initial_weights=exported", "--set", "train.steps=1"];
    arguments.extend(still.iter().flat_map(|set| ["--set", set]));
    lab.launch(&arguments).expect_success();
    export(&lab, "runs/second", "again", false).expect_success();
    assert!(content("again") == exported, "the weights came back changed");

    let other =
        ["--set", "run.name=third", "--set", "model.initial_weights=exported", "--set", "model.unet.block_channels=[8, 32]"];
    lab.launch(&other).expect_refusal(&["unet2dconditionmodelwithpos", "misshapen", "instead of"]);
}
