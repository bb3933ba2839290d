//! Counts against the published ones, the worker's own, and options by hand; memory against workers that were measured.

use super::*;
use crate::config::load;

const TINY: &str = "tests/system/tiny.toml";
const QUICKSTART: &str = "configs/quickstart.toml";
const MOVI_E: &str = "configs/movi-e.toml";

fn config(name: &str, overrides: &[&str]) -> Config {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    load::from_file(&path, &overrides).unwrap()
}

fn counts(name: &str, overrides: &[&str]) -> [u64; 3] {
    let Parameters { backbone, slot_attention, unet } = parameters(&config(name, overrides));
    [backbone, slot_attention, unet]
}

/// The published networks, counted by running them: backbone, Slot Attention, UNet, and training as three times their sum.
#[test]
fn the_paper_s_networks_compute_as_much_as_when_they_are_run() {
    let counted = flops(&config(MOVI_E, &[]));
    let figures = [counted.backbone, counted.slot_attention, counted.unet, counted.training()];
    for (figure, published) in figures.into_iter().zip([26.4e9, 1.5e9, 65.6e9, 280.5e9]) {
        let ratio = figure as f64 / published;
        println!("{figure} is {ratio:.4} of {published}");
        assert!((0.98..1.02).contains(&ratio), "{figure} is {ratio:.4} of {published}");
    }
}

#[test]
fn options_cost_operations_by_hand() {
    let operations = |options: &[&str]| {
        let Flops { backbone, slot_attention, unet } = flops(&config(TINY, options));
        [backbone, slot_attention, unet]
    };
    let before = operations(&[]);
    // 64 tokens of 16 channels, 4 slots of 16, hidden width 16: a round is queries, both products with the tokens, GRU and MLP.
    let round = 2 * (4 * 256 + 2 * 16 * 4 * 64 + 2 * 3 * 4 * 256 + 2 * 4 * 16 * 16);
    let more = operations(&["model.slot_attention.iterations=5"]);
    let rounds = 5 - config(TINY, &[]).model.slot_attention.iterations as u64;
    assert_eq!([more[0] - before[0], more[1] - before[1], more[2] - before[2]], [0, rounds * round, 0]);
    assert_eq!(operations(&["model.unet.gradient_checkpointing=true", "model.unet.position_embedding=learned"]), before);
}

#[test]
fn utilisation_is_a_share_of_what_was_measured() {
    // 1,000 images of 280.5 GFLOP each second, of 561 TFLOP/s.
    assert_eq!(utilisation(1000.0, 280_500_000_000, 561.0), Some(0.5));
    for (images, tflops) in [(1000.0, 0.0), (f64::NAN, 561.0), (1000.0, -1.0), (f64::INFINITY, 1.0)] {
        assert_eq!(utilisation(images, 280_500_000_000, tflops), None);
    }
}

/// What an option adds to backbone, Slot Attention and UNet.
fn added(name: &str, options: &[&str]) -> [i64; 3] {
    let (before, after) = (counts(name, &[]), counts(name, options));
    [0, 1, 2].map(|network| after[network] as i64 - before[network] as i64)
}

#[test]
fn the_paper_s_networks_have_as_many_parameters_as_published() {
    for name in [MOVI_E, "configs/movi-c.toml", "configs/clevr.toml", "configs/clevrtex.toml", "configs/ffhq.toml"] {
        assert_eq!(counts(name, &[]), [42_571_840, 521_472, 305_588_932], "{name}");
    }
}

/// The totals are those in the summary of the worker's `train` job.
#[test]
fn small_networks_have_as_many_parameters_as_their_workers_say() {
    assert_eq!(parameters(&config(TINY, &[])).total(), 94_420);
    assert_eq!(parameters(&config(QUICKSTART, &[])).total(), 1_330_404);
    let other = [
        "model.backbone.block_channels=[8, 12, 16]",
        "model.backbone.mid_attention_head_dim=0",
        "model.slot_attention.initialisation=learned",
        "model.slot_attention.position_embedding=sincos",
        "model.slot_attention.slot_size=24",
        "model.slot_attention.heads=2",
        "model.slot_attention.out_size=20",
        "model.unet.position_embedding=learned",
        "model.unet.layers_per_block=2",
        "model.unet.attention=[false, true]",
    ];
    assert_eq!(parameters(&config(TINY, &other)).total(), 162_809);
}

#[test]
fn options_by_hand() {
    // Tokens: 16 channels on 8 x 8; 4 slots of 16. The UNet attends 5 times at 8 channels on 8 x 8 (but for the middle) and 4 times at
    // 16 channels on 4 x 4, each time to itself and to the slots.
    let slot_attention = |option: &str| added(TINY, &[&format!("model.slot_attention.{option}")])[1];
    assert_eq!(slot_attention("initialisation=learned"), 4 * 16 - 2 * 16);
    assert_eq!(slot_attention("position_embedding=none"), -(16 * 5));
    assert_eq!(slot_attention("position_embedding=learned"), 8 * 8 * 16 - 16 * 5);
    assert_eq!(slot_attention("mlp_hidden=17"), 16 + 1 + 16);
    assert_eq!(slot_attention("heads=2"), 0);
    let (at_8, at_16) = (2 * 3, 2 * (3 + 1));
    let unet = |option: &str| added(TINY, &[&format!("model.unet.{option}")])[2];
    assert_eq!(unet("position_embedding=none"), -(at_8 * 8 * 5 + at_16 * 16 * 5));
    assert_eq!(unet("position_embedding=sincos"), at_8 + at_16 - (at_8 * 8 * 5 + at_16 * 16 * 5));
    assert_eq!(unet("position_embedding=learned"), at_8 * 8 * (64 - 5) + at_16 * 16 * (16 - 5));
    assert_eq!(unet("gradient_checkpointing=true"), 0);
    // The middle attention of 8 channels: a normalisation and four layers.
    assert_eq!(added(TINY, &["model.backbone.mid_attention_head_dim=0"]), [-(2 * 8 + 4 * (64 + 8)), 0, 0]);
    // Keys and values of all 7 attentions to the slots, and the last layer of Slot Attention.
    assert_eq!(added(TINY, &["model.slot_attention.out_size=17"]), [0, 16 + 1, 2 * (3 * 8 + 4 * 16)]);
}

/// The largest resident size of rank 0 (VmHWM) in MiB, measured on two cores over 2 to 6 steps: experiment, images of the worker, options,
/// whether checkpoints were saved. The latents of the published networks had 8 channels in each level of their autoencoder.
const MEASURED: [(&str, usize, &[&str], bool, u64); 16] = [
    (TINY, 1, &[], false, 390),
    (TINY, 32, &[], false, 418),
    (QUICKSTART, 1, &[], false, 446),
    (QUICKSTART, 4, &[], false, 501),
    (QUICKSTART, 16, &[], false, 711),
    (QUICKSTART, 64, &[], false, 1521),
    (QUICKSTART, 64, &["train.micro_batch=16"], false, 727),
    (QUICKSTART, 64, &["model.unet.gradient_checkpointing=true"], false, 1260),
    (MOVI_E, 1, &[], false, 8383),
    (MOVI_E, 4, &[], false, 9324),
    (MOVI_E, 8, &[], false, 11223),
    (MOVI_E, 16, &[], false, 15386),
    (MOVI_E, 16, &["train.micro_batch=4"], false, 9323),
    (MOVI_E, 16, &["model.unet.gradient_checkpointing=true"], false, 11882),
    (MOVI_E, 2, HALF, false, 2660),
    (MOVI_E, 2, HALF, true, 3658),
];
const HALF: &[&str] = &["model.unet.block_channels=[96, 192, 384, 384]", "model.backbone.block_channels=[64, 64, 128, 256]"];

#[test]
fn workers_were_as_large_as_estimated_within_a_tenth() {
    for (name, rows, options, saves, measured) in MEASURED {
        // One worker, which has the whole checkpoint for its share.
        let memory = memory(&config(name, &[options, &["cluster.workers_per_node=1"]].concat()), rows);
        // The data sets were smaller than the smallest cache.
        let left_out = memory.cache + if saves { 0 } else { memory.checkpoint };
        let ratio = (memory.total() - left_out) as f64 / (measured << 20) as f64;
        assert!((0.9..1.1).contains(&ratio), "{name}, {rows} images, {options:?}: estimated {ratio:.3} of what was measured");
    }
}

#[test]
fn the_parts_are_what_they_say() {
    let config = config(QUICKSTART, &["data.prefetch=2", "data.cache_mib=3"]);
    let weights = 4 * 1_330_404;
    let memory = memory(&config, 10);
    assert_eq!([memory.weights, memory.gradients, memory.moments, memory.average], [weights, weights, 2 * weights, weights]);
    // Images of 64 x 64 pixels in bytes, 8 moments on 16 x 16 in half precision; the batch of the step and two more.
    assert_eq!(memory.batches, 3 * 10 * (3 * 64 * 64 + 8 * 16 * 16 * 2));
    assert_eq!(memory.cache, 3 << 20);
    assert_eq!(super::memory(&self::config(QUICKSTART, &["train.ema_decay=0"]), 10).average, 0);
}

#[test]
fn the_micro_batch_within_a_memory_is_the_largest_one() {
    let config = config(QUICKSTART, &[]);
    let needed = |rows| {
        let mut config = config.clone();
        config.train.micro_batch = Some(rows);
        memory(&config, 16).total()
    };
    assert_eq!(micro_batch_within(&config, 16, u64::MAX), Some(16));
    assert_eq!(micro_batch_within(&config, 16, needed(9)), Some(9));
    assert!(needed(10) > needed(9));
    assert_eq!(micro_batch_within(&config, 16, 1 << 20), None);
}
