//! Every way to get a configuration wrong, and the line that says so.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{from_file, from_str, to_toml};
use crate::config::{Config, Prediction};

const FIXTURE: &str = include_str!("fixture.toml");

fn load(overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    from_str(FIXTURE, "q.toml", &overrides).map_err(|error| error.to_string())
}

/// The message for the fixture with one line changed, and the number of that line.
fn refusal(line: &str, changed: &str) -> (String, usize) {
    let number = 1 + FIXTURE.lines().position(|candidate| candidate == line).unwrap();
    let text = FIXTURE.replacen(&format!("\n{line}\n"), &format!("\n{changed}\n"), 1);
    (from_str(&text, "q.toml", &[]).unwrap_err().to_string(), number)
}

#[test]
fn a_wrong_line_is_named_with_its_number() {
    let cases = [
        ("steps = 3000", "stepz = 3000", "unknown key train.stepz in q.toml:LINE; did you mean train.steps?"),
        ("[checkpoint]", "[chekpoint]", "unknown key chekpoint in q.toml:LINE; did you mean checkpoint?"),
        (
            "steps = 3000",
            "steps = \"many\"",
            "train.steps in q.toml:LINE: invalid type: string \"many\", expected a whole number of 0 or more",
        ),
        (
            "steps = 3000",
            "steps = -1",
            "train.steps in q.toml:LINE: invalid value: integer `-1`, expected a whole number of 0 or more",
        ),
        ("steps = 3000", "steps = 0", "train.steps = 0 is out of range: 1 or more (in q.toml:LINE)"),
        (
            "attention = [true, true]",
            "attention = [true, 1]",
            "model.unet.attention[1] in q.toml:LINE: invalid type: integer `1`, expected a boolean",
        ),
        (
            "prediction = \"epsilon\"",
            "prediction = \"noise\"",
            "diffusion.prediction in q.toml:LINE: unknown variant `noise`, expected `epsilon` or `v`",
        ),
        ("[cluster]", "cluster = 2", "cluster in q.toml:LINE: invalid type: integer `2`, expected a table"),
    ];
    for (line, changed, expected) in cases {
        // A key after a table header belongs to that table: such a case goes to the top of the file.
        let (message, number) = if changed.starts_with("cluster") {
            let text = format!("{changed}\n{}", FIXTURE.split("[cluster]").next().unwrap());
            (from_str(&text, "q.toml", &[]).unwrap_err().to_string(), 1)
        } else {
            refusal(line, changed)
        };
        assert_eq!(message, expected.replace("LINE", &number.to_string()));
    }
    let (message, number) = refusal("steps = 3000", "steps = = 3000");
    assert!(message.starts_with(&format!("q.toml:{number}: not valid TOML: ")) && !message.contains('\n'), "{message}");
    let text = FIXTURE.replacen("\nslots = 7\n", "\n", 1);
    let message = from_str(&text, "q.toml", &[]).unwrap_err().to_string();
    assert_eq!(message, "missing key model.slot_attention.slots in q.toml");
}

#[test]
fn a_wrong_override_is_named_whole() {
    let cases = [
        ("train.stepz=5", "unknown key train.stepz in --set train.stepz=5; did you mean train.steps?"),
        ("train.steps", "--set train.steps: expected KEY=VALUE, for example --set train.steps=500"),
        ("=5", "--set =5: expected KEY=VALUE, for example --set train.steps=500"),
        (
            "train.steps=many",
            "train.steps in --set train.steps=many: invalid type: string \"many\", expected a whole number of 0 or more",
        ),
        ("train.steps=0", "train.steps = 0 is out of range: 1 or more (in --set train.steps=0)"),
        ("train={ stepz = 1 }", "unknown key train.stepz in --set train={ stepz = 1 }; did you mean train.steps?"),
    ];
    for (assignment, expected) in cases {
        assert_eq!(load(&[assignment]).unwrap_err(), expected);
    }
}

#[test]
fn overrides_are_toml_or_else_strings_and_make_missing_tables() {
    let config = load(&[
        "run.name=night-7",
        "diffusion.prediction=v",
        "diffusion.latent_scale=1",
        "checkpoint.url=s3://bucket/a=b",
        "model.unet.attention=[false, true]",
        "train.optimizer.beta2=0.95",
        "train.groups.unet={ learning_rate = 1e-5 }",
        "train.steps=7",
        "train.steps=9",
    ])
    .unwrap();
    assert_eq!((config.run.name.as_str(), config.diffusion.prediction), ("night-7", Prediction::V));
    assert_eq!(config.checkpoint.url.as_deref(), Some("s3://bucket/a=b"));
    assert_eq!(config.model.unet.attention, [false, true]);
    assert_eq!((config.train.optimizer.beta2, config.train.steps), (0.95, 9), "the last override wins");
    assert_eq!(config.train.groups.unet.warmup_steps, 100, "tables are merged");
}

#[test]
fn values_that_have_to_fit_each_other_name_both_keys() {
    let cases = [
        (
            "train.global_batch=1",
            "train.global_batch = 1 is out of range: at least one for each of the 2 workers (cluster.nodes * cluster.workers_per_node)",
        ),
        (
            "model.unet.norm_groups=48",
            "model.unet.block_channels = [64, 128] is out of range: multiples of model.unet.norm_groups (48), 1 or more each",
        ),
        (
            "model.unet.heads=3",
            "model.unet.heads = 3 is out of range: a divisor of the channels in model.unet.block_channels that attend (64)",
        ),
        (
            "model.unet.attention=[true]",
            "model.unet.attention = [true] is out of range: one entry for each of model.unet.block_channels (2)",
        ),
        (
            "data.resolution=60",
            "data.resolution = 60 is out of range: a multiple of 8, for the levels of autoencoder.block_channels and model.unet.block_channels",
        ),
        (
            "model.slot_attention={ start = \"k-means\", slot_size = 32 }",
            "model.slot_attention.start = \"k-means\" is out of range: \"random\", or model.backbone.out_channels (64), \
             model.slot_attention.slot_size (32) and model.slot_attention.out_size (64) must be the same",
        ),
        ("scenes.max_objects=2", "scenes.max_objects = 2 is out of range: from scenes.min_objects (3) to 10"),
        (
            "import={ layout = \"images\", source = \"photos\", validation_share = 1.0 }",
            "import.validation_share = 1 is out of range: more than 0 and less than 1",
        ),
        ("checkpoint.keep_last=1", "checkpoint.keep_last = 1 is out of range: 2 or more"),
        (
            "checkpoint.best_by=fg-ari",
            "checkpoint.best_by = fg-ari is out of range: loss as long as train.evaluation.every_steps is 0",
        ),
        ("train.ema_decay=nan", "train.ema_decay = NaN is out of range: 0 or more and less than 1"),
        ("run.name=../x", "run.name = \"../x\" is out of range: a folder name of letters, digits, '-', '_' and '.'"),
        ("evaluate.sampling_steps=1001", "evaluate.sampling_steps = 1001 is out of range: from 1 to diffusion.timesteps (1000)"),
        ("train.micro_batch=0", "train.micro_batch = 0 is out of range: 1 or more"),
        ("train.slot_dropout=1.0", "train.slot_dropout = 1 is out of range: 0 or more and less than 1"),
        ("evaluate.guidance=1.5", "evaluate.guidance = 1.5 is out of range: 1 as long as train.slot_dropout is 0"),
        (
            "model.slot_attention.heads=3",
            "model.slot_attention.heads = 3 is out of range: a divisor of model.slot_attention.slot_size (64)",
        ),
        (
            "model.slot_attention.bi_level=true",
            "model.slot_attention.bi_level = true is out of range: false, or model.slot_attention.initialisation must be \"learned\"",
        ),
        (
            "model={ backbone = { out_channels = 6 }, slot_attention = { position_embedding = \"sincos\" } }",
            "model.slot_attention.position_embedding = \"sincos\" is out of range: another one, or model.backbone.out_channels (6) must \
             be a multiple of 4",
        ),
        (
            "model.unet={ position_embedding = \"sincos\", block_channels = [6, 8], norm_groups = 2, heads = 2 }",
            "model.unet.position_embedding = \"sincos\" is out of range: another one, or the channels in model.unet.block_channels that \
             attend (6) must be multiples of 4",
        ),
        ("autoencoder.sha256=beef", "autoencoder.sha256 = \"beef\" is out of range: 64 hexadecimal digits"),
        (
            "fid.weights=inception.pth",
            "fid.weights = \"inception.pth\" is out of range: a .safetensors file; of the published weights it is made by: python -c",
        ),
        ("fid={ weights = \"a.safetensors\", sha256 = \"beef\" }", "fid.sha256 = \"beef\" is out of range: 64 hexadecimal digits"),
        ("fid={ weights = \"a.safetensors\", images = 1 }", "fid.images = 1 is out of range: 2 or more"),
        ("fid.images=64", "missing key fid.weights in q.toml"),
        ("cluster.collective=solo", "cluster.collective = \"solo\" is out of range: \"auto\", \"mpi\" or \"nccl\" for 2 workers"),
    ];
    for (assignment, expected) in cases {
        let message = load(&[assignment]).unwrap_err();
        assert!(message.starts_with(expected), "{assignment}: {message}");
    }
    let message = load(&["evaluate.sampler=dpm-solver++", "evaluate.sampling_steps=1000"]).unwrap_err();
    let expected =
        "evaluate.sampling_steps = 1000 is out of range: 1 or more and less than diffusion.timesteps (1000) for dpm-solver++";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn every_config_of_the_repository_loads_and_reads_back_equal() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let config = from_file(&file, &[]).unwrap();
        assert_eq!(Some(config.run.name.as_str()), file.file_stem().and_then(|name| name.to_str()), "a run is named as its file");
        assert_eq!(from_str(&to_toml(&config).unwrap(), "run.toml", &[]).unwrap(), config, "{}", file.display());
    }
}

proptest! {
    /// What is written into a run folder is what the workers read, to the last bit of every float.
    #[test]
    fn a_resolved_config_reads_back_equal(
        name in "[a-zA-Z0-9_-]{1,20}", images in "[^\u{0}]{1,20}", seed in 0..=i64::MAX as u64, rate in 0.0..1.0f64,
        beta in 1e-9..0.9f64, workers in 1..64usize, scale in prop::option::of(1e-9..1e9f64),
    ) {
        prop_assume!(!images.trim().is_empty());
        let mut config = load(&[]).unwrap();
        config.run.name = name;
        config.run.seed = seed;
        config.data.images = images;
        config.train.groups.unet.learning_rate = rate;
        config.diffusion.beta_start = beta * 0.5;
        config.diffusion.beta_end = beta;
        config.cluster.workers_per_node = workers;
        config.train.global_batch = 3 * workers;
        config.autoencoder.train.global_batch = workers;
        config.autoencoder.scaling_factor = scale;
        prop_assert_eq!(from_str(&to_toml(&config).unwrap(), "run.toml", &[]).unwrap(), config);
    }

    /// Nothing that anyone types makes the loader panic, and every refusal is one line.
    #[test]
    fn any_override_is_taken_or_refused_in_one_line(assignment in "([a-z._]{0,12}|train[.]steps|run[.]name)(=[ -~\n]{0,12})?") {
        if let Err(message) = load(&[&assignment]) {
            prop_assert!(!message.replace(&assignment, "").contains('\n'), "{}", message);
        }
    }
}

#[test]
fn the_configuration_of_an_earlier_run_still_loads() {
    assert_eq!(load(&["evaluate.library=30"]).unwrap().concepts.images, 30);
    assert_eq!(load(&["evaluate.library=30", "concepts.images=40"]).unwrap().concepts.images, 40);
    let text = FIXTURE.replace("\n[evaluate]\n", "\n[evaluate]\nlibrary = 50\n");
    let config = from_str(&text, "q.toml", &[]).unwrap();
    assert_eq!(config.concepts.images, 50);
    assert!(!to_toml(&config).unwrap().contains("library"));
}
