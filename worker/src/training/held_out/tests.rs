//! Training that looks at held-out images, beside training that does not.
#![allow(clippy::unwrap_used)]

use crate::checkpointing::open_store;
use crate::model::{Autoencoder, Initial};
use crate::training::step_tests::fresh_state;
use crate::training::tests::{Lab, copy, message};
use common::config::{BestBy, Config};
use common::run_dir::RunDir;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, no_grad};

const LOOKS: [&str; 6] = [
    "train.evaluation.every_steps=4",
    "train.evaluation.samples=10",
    "train.evaluation.pictures=3",
    "train.evaluation.sampling_steps=2",
    "evaluate.batch=3",
    "checkpoint.keep_last=9",
];

/// The images that are trained on serve as held-out ones, and an autoencoder paints.
fn lab() -> Lab {
    let lab = Lab::new();
    copy(&lab.path("latents/train"), &lab.path("latents/validation"), u64::MAX);
    let config = lab.config(&[]);
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(&lab.path("autoencoder"), &config.autoencoder, 16).unwrap();
    lab
}

fn config(lab: &Lab, overrides: &[&str]) -> Config {
    let weights = format!("autoencoder.weights={}", lab.path("autoencoder").display());
    lab.config(&[&[weights.as_str()], overrides].concat())
}

/// Step and figures of every evaluation that is written down; how long it took is no figure.
fn evaluations(lab: &Lab, config: &Config) -> Vec<(u64, BTreeMap<String, f64>)> {
    let records = lab.records(config).into_iter();
    let evaluations =
        records.map(|mut record| (record.figures.remove("evaluation/seconds"), record)).filter(|(seconds, _)| seconds.is_some());
    evaluations.map(|(_, record)| (record.step, record.figures)).collect()
}

#[test]
fn looking_changes_no_step_and_any_number_of_workers_sees_the_same() {
    let lab = lab();
    let plain = config(&lab, &[]);
    lab.train(&plain, 1).unwrap();
    let expected = lab.newest(&plain).1;
    fs::remove_dir_all(lab.path("run")).unwrap();
    let looking = config(&lab, &LOOKS);
    lab.train(&looking, 1).unwrap();
    assert_eq!(lab.newest(&looking).1, expected);
    let alone = evaluations(&lab, &looking);
    assert_eq!(alone.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 8, 12, 15]);
    let names =
        ["active_slots", "attention_entropy", "largest_slot", "loss", "slot_similarity", "slot_stability", "slot_usage_entropy"];
    assert!(alone[0].1.keys().eq(names.map(|name| format!("evaluation/{name}")).iter()), "{:?}", alone[0].1);
    assert!(alone[0].1["evaluation/loss"] != alone[3].1["evaluation/loss"], "nothing is learned");
    let picture = |step| fs::read(RunDir::new(lab.path("run")).training_picture(step)).unwrap();
    let [first, last] = [4, 15].map(picture);
    let size = image::load_from_memory(&last).map(|picture| (picture.width() / 112, picture.height() / 112)).unwrap();
    assert_eq!((size, first == last), ((4, 3), false), "image, slots, decoded and composed, of three images");

    fs::remove_dir_all(lab.path("run")).unwrap();
    lab.train_by_two(&looking, false);
    let together = evaluations(&lab, &looking);
    assert_eq!(together.len(), alone.len());
    for ((step, alone), (_, together)) in alone.iter().zip(&together) {
        for (name, figure) in alone {
            // Gradients are summed in another order, and a pixel between two slots may fall to the other one.
            assert!((figure - together[name]).abs() < 0.02, "step {step}: {name} is {figure} and {}", together[name]);
        }
    }
    assert_eq!(fs::read_dir(RunDir::new(lab.path("run")).training_pictures()).unwrap().count(), 4);
}

#[test]
fn a_resumed_run_sees_what_it_would_have_seen() {
    let lab = lab();
    let straight = config(&lab, &[&LOOKS[..], &["run.name=straight", "checkpoint.every_steps=5"]].concat());
    lab.train(&straight, 1).unwrap();
    let url = format!("checkpoint.url={}", lab.path("again").display());
    let resumed = config(&lab, &[&LOOKS[..], &["run.name=straight", "checkpoint.every_steps=5", &url]].concat());
    copy(&RunDir::new(lab.path("straight")).checkpoints(), &lab.path("again"), 5);
    lab.train(&resumed, 2).unwrap();
    let all = evaluations(&lab, &straight);
    let (before, after) = all.split_at(4);
    assert_eq!(after, &before[1..], "at steps 8, 12 and 15, once more");
    let stopped = config(&lab, &[&LOOKS[..], &["run.name=stopped", "train.evaluation.every_steps=1"]].concat());
    lab.train_by_two(&stopped, true);
    assert_eq!(evaluations(&lab, &stopped).len(), 1, "who is asked to end after a step still looks at what it has learned");
}

/// A checkpoint has what two workers find in held-out images after its step, though that is told only after the next one.
#[test]
fn checkpoints_are_judged_by_what_is_found_in_held_out_images() {
    let lab = lab();
    let judged = ["checkpoint.every_steps=2", "checkpoint.best_by=held-out-loss"];
    let config = config(&lab, &[&LOOKS[..], &judged].concat());
    lab.train_by_two(&config, false);
    let found: BTreeMap<u64, f64> =
        evaluations(&lab, &config).into_iter().map(|(step, figures)| (step, figures["evaluation/loss"])).collect();
    let store = open_store(&config, &RunDir::new(lab.path("run"))).unwrap();
    let saved = lab.runtime.block_on(store.list()).unwrap();
    assert_eq!(saved.iter().map(|saved| saved.step).collect::<Vec<_>>(), [15, 14, 12, 10, 8, 6, 4, 2]);
    for saved in saved {
        let manifest = lab.runtime.block_on(store.open(&saved)).unwrap();
        assert_eq!((manifest.figure, manifest.figure_of), (found.get(&saved.step).copied(), BestBy::HeldOutLoss), "{}", saved.step);
    }
}

#[test]
fn what_is_averaged_follows_the_moving_average() {
    let lab = lab();
    let config = config(&lab, &[]);
    let state = fresh_state(&config, Kind::Float);
    let averaged = state.averaged(&config, Device::Cpu).unwrap();
    let values = state.average.as_ref().unwrap().values().shallow_clone();
    let _ = no_grad(|| values.shallow_clone().g_add_scalar_(1.0));
    let own =
        state.model.modules.iter().zip(&averaged.modules).flat_map(|(own, averaged)| own.variables.iter().zip(&averaged.variables));
    for (own, averaged) in own {
        let moved = (&averaged.tensor - &own.tensor).detach();
        let by = if own.trainable { 1.0 } else { 0.0 };
        assert!((moved - by).abs().max().double_value(&[]) < 1e-6, "{}", own.name);
    }
    let without = Config { train: common::config::TrainConfig { ema_decay: 0.0, ..config.train.clone() }, ..config };
    assert!(fresh_state(&without, Kind::Float).averaged(&without, Device::Cpu).is_none());
}

#[test]
fn what_is_missing_is_named_before_the_first_step() {
    let lab = lab();
    let refused = |overrides: &[&str]| message(lab.train(&config(&lab, &[&LOOKS[..], overrides].concat()), 1));
    let text = refused(&["checkpoint.best_by=fg-ari"]);
    assert!(text.contains("checkpoint.best_by = fg-ari needs masks") && text.contains("latents"), "{text}");
    fs::remove_dir_all(lab.path("autoencoder")).unwrap();
    let text = refused(&[]);
    assert!(text.contains(lab.path("autoencoder").to_str().unwrap()), "{text}");
    fs::remove_dir_all(lab.path("latents/validation")).unwrap();
    let text = refused(&["train.evaluation.pictures=0"]);
    assert!(text.contains("validation") && !Path::new(&lab.path("run/metrics.jsonl")).exists(), "{text}");
}
