//! Held-out images, looked at while training.

use std::collections::BTreeMap;

use common::journal::{self, Event};
use serde_json::Value;

use crate::lab::{Lab, PATIENCE};
use crate::records::{Weights, final_weights, last_step, lines};

const STEPS: u64 = 40;
/// Of the small experiment: at steps 16, 32 and 40.
const LOOKS: [&str; 6] = [
    "--set",
    "train.evaluation.every_steps=16",
    "--set",
    "train.evaluation.sampling_steps=3",
    "--set",
    "train.evaluation.pictures=3",
];

/// Step and figures of every evaluation, but how long it took.
fn evaluations(lab: &Lab) -> Vec<(u64, BTreeMap<String, f64>)> {
    let figures = |record: &Value| {
        let named = record.as_object().unwrap().iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("evaluation/").filter(|name| *name != "seconds")?;
            Some((name.to_owned(), value.as_f64().unwrap()))
        });
        (record["step"].as_u64().unwrap(), named.collect::<BTreeMap<_, _>>())
    };
    lines(&lab.run().metrics()).iter().map(figures).filter(|(_, figures)| !figures.is_empty()).collect()
}

fn trained(settings: &[&str]) -> (Lab, Weights) {
    let lab = Lab::prepared();
    lab.launch(settings).expect_success();
    let weights = final_weights(&lab.run(), STEPS);
    (lab, weights)
}

#[test]
fn evaluations_change_no_weight_and_are_the_same_for_any_number_of_workers() {
    let (_, plain) = trained(&[]);
    let (lab, weights) = trained(&LOOKS);
    assert_eq!(weights, plain);
    let together = evaluations(&lab);
    assert_eq!(together.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [16, 32, STEPS]);
    for figure in ["fg_ari", "miou", "mbo", "loss", "active_slots", "slot_stability"] {
        assert!(together[0].1.contains_key(figure), "no {figure} in {:?}", together[0]);
    }
    for (step, _) in &together {
        assert!(std::fs::read(lab.run().training_picture(*step)).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    }
    told(&lab);

    let (alone, _) = trained(&[&LOOKS[..], &["--set", "cluster.workers_per_node=1"]].concat());
    for ((step, together), (_, alone)) in together.iter().zip(evaluations(&alone)) {
        for (figure, value) in together {
            assert!((value - alone[figure]).abs() < 0.02, "step {step}: {figure} is {value} and {}", alone[figure]);
        }
    }
}

/// In the journal, in `status`, and in the report with its revisions.
fn told(lab: &Lab) {
    let entries = journal::read(&lab.run().journal()).unwrap();
    let evaluated = entries.iter().filter(|entry| matches!(&entry.event, Event::Evaluated(one) if one.figures.contains_key("mbo")));
    assert_eq!(evaluated.count(), 3);
    let ask = |arguments: &[&str]| lab.start(arguments).wait(PATIENCE).expect_success().stdout.clone();
    let status: Value = serde_json::from_str(&ask(&["status", "runs/tiny", "--json"])).unwrap();
    assert_eq!(status[0]["evaluation"]["step"], STEPS, "{status}");
    assert!(status[0]["books"]["evaluation"].as_f64().unwrap() > 0.0, "{status}");
    assert!(ask(&["status", "runs/tiny"]).contains("held out      step 40: FG-ARI"));
    let report: Value = serde_json::from_str(&ask(&["report", "runs/tiny", "--json"])).unwrap();
    assert_eq!((&report["points"]["Objects found"], &report["pictures"][0]), (&9.into(), &"step-00000040.png".into()), "{report}");
}

#[test]
fn a_run_that_is_stopped_and_resumed_between_evaluations_sees_the_same() {
    let (straight, weights) = trained(&LOOKS);
    let lab = Lab::prepared();
    let mut launch = lab.start_launch(&LOOKS);
    launch.wait_until("step 18", PATIENCE, || last_step(&lab.run()).filter(|at| *at >= 18));
    lab.start(&["stop", "runs/tiny"]).wait(PATIENCE);
    launch.wait(PATIENCE);
    if last_step(&lab.run()) < Some(STEPS) {
        lab.resume().expect_success();
    }
    assert_eq!(final_weights(&lab.run(), STEPS), weights);
    assert_eq!(evaluations(&lab), evaluations(&straight));
}
