//! A checkpoint on demand, and what the commands about checkpoints say of those that a training has written.

use serde_json::{Value, json};

use crate::lab::{Lab, PATIENCE};
use crate::records::{last_step, newest_checkpoint};
use common::run_dir::RunDir;

/// What a command prints with `--json`, at its end with exit code 0.
fn ask(lab: &Lab, arguments: &[&str]) -> Value {
    let ended = lab.start(&[arguments, &["--json"]].concat()).wait(PATIENCE);
    serde_json::from_str(&ended.expect_success().stdout).unwrap()
}

/// Two workers save out of turn, and nothing of their trajectory changes.
#[test]
fn a_training_that_is_asked_for_a_checkpoint_saves_one_and_goes_on() {
    let lab = Lab::prepared();
    let long = ["--set", "train.steps=100000"];
    let mut launch = lab.start_launch(&[&long[..], &["--set", "checkpoint.every_steps=100000"]].concat());
    launch.wait_until("step 3", PATIENCE, || last_step(&lab.run()).filter(|at| *at >= 3));
    let [first, second] = [(); 2].map(|()| ask(&lab, &["checkpoint", "runs/tiny"])["step"].as_u64().unwrap());
    assert!(first >= 3 && second > first, "{first}, {second}");
    lab.start(&["stop", "runs/tiny"]).wait(PATIENCE).expect_success();
    launch.wait(PATIENCE).expect_code(143);
    let listed = ask(&lab, &["checkpoints", "list", "runs/tiny", "--all"]);
    let rows = listed["checkpoints"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[1]["step"], &rows[1]["world"]), (2, &json!(second), &json!(2)), "two are kept: {listed}");
    assert_eq!(ask(&lab, &["checkpoints", "verify", "runs/tiny"])["damaged"], 0);

    // A run that nobody has asked comes to the same state.
    let every = format!("checkpoint.every_steps={second}");
    let set = ["--set", "run.root=other", "--set", "checkpoint.keep_last=1000", "--set", &every];
    let mut other = lab.start_launch(&[&long[..], &set].concat());
    other.wait_until("the same step", PATIENCE, || newest_checkpoint(&RunDir::new(lab.path().join("other/tiny"))));
    other.kill_all();
    let compared = ask(&lab, &["checkpoints", "diff", &format!("runs/tiny@{second}"), &format!("other/tiny@{second}")]);
    assert_eq!(compared["identical"], true, "{compared}");
}
