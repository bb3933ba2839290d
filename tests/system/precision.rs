//! Fewer bits decide how fast a run goes, and hardly where it goes.

use std::path::Path;
use std::time::Duration;

use common::run_dir::RunDir;

use crate::lab::Lab;
use crate::records::series;

/// Steps to compare, and over how many losses are averaged: each step's loss is that of its own images, timesteps and noise.
const STEPS: usize = 60;
const WINDOW: usize = 10;

/// The networks, the recipe and the images of the quickstart, but less of them.
const FEWER: [&str; 8] = [
    "scenes.train=192",
    "scenes.validation=8",
    "data.rows_per_shard=64",
    "autoencoder.train.steps=60",
    "train.log_every=1",
    "train.groups.backbone.warmup_steps=10",
    "train.groups.slot_attention.warmup_steps=10",
    "train.groups.unet.warmup_steps=10",
];

fn launch(lab: &Lab, job: &str, settings: &[&str]) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
    let config = config.display().to_string();
    let steps = format!("train.steps={STEPS}");
    let settings = FEWER.iter().chain(settings).copied().chain([steps.as_str()]).flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> = ["launch", "--job", job, "--config", &config].into_iter().chain(settings).collect();
    lab.start(&arguments).wait(Duration::from_secs(600)).expect_success();
}

#[test]
fn bf16_follows_the_loss_curve_of_f32_on_the_quickstart() {
    let lab = Lab::empty();
    for job in ["scenes", "autoencoder", "encode"] {
        launch(&lab, job, &[]);
    }
    let curve = |name: &str, settings: &[&str]| {
        let name_setting = format!("run.name={name}");
        launch(&lab, "train", &[settings, &[name_setting.as_str()]].concat());
        let losses = series(&RunDir::new(lab.path().join("runs").join(name)), "loss");
        assert_eq!(losses.len(), STEPS);
        losses.chunks(WINDOW).map(|losses| losses.iter().sum::<f64>() / WINDOW as f64).collect::<Vec<_>>()
    };
    let full = curve("fp32", &["train.precision=fp32"]);
    let rounded = curve("bf16", &["train.precision=bf16"]);
    println!("fp32 {full:.4?}\nbf16 {rounded:.4?}");
    assert!(full[full.len() - 1] < 0.9 * full[0], "nothing was learned: {full:?}");
    assert_ne!(full, rounded, "nothing was rounded");
    for (window, (full, rounded)) in full.iter().zip(&rounded).enumerate() {
        let difference = (full - rounded).abs() / full;
        assert!(difference < 0.02, "losses of steps {}..: {full} in f32, {rounded} in bf16", window * WINDOW + 1);
    }
}
