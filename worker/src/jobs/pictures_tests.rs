//! Scenes, figures and pictures on threads as workers: nothing depends on how many share the work.

use super::crew::run_job;
use super::{JobContext, Reporter, compose, edit, evaluate, failure_kind, import, probe, scenes};
use crate::checkpointing::{Identity, Judgement, SaveTo, Saver, open_store};
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::config::{Config, load};
use common::control::FailureKind;
use common::run_dir::RunDir;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::Device;
use tokio::runtime::Runtime;

/// An experiment that needs no encoding: evaluation reads images and masks, which lie with the scenes.
pub(super) fn config(folder: &Path) -> Config {
    let place = |key: &str, name: &str| format!("{key}=\"{}\"", folder.join(name).display());
    let overrides = [
        place("data.images", "images"),
        place("data.latents", "images"),
        place("autoencoder.weights", "autoencoder"),
        "data.resolution=32".into(),
        "data.rows_per_shard=8".into(),
        "scenes.train=20".into(),
        "scenes.validation=9".into(),
        "autoencoder.block_channels=[8, 8, 8]".into(),
        "autoencoder.norm_groups=4".into(),
        "autoencoder.scaling_factor=1.0".into(),
        "model.backbone.block_channels=[8]".into(),
        "model.backbone.out_channels=8".into(),
        "model.backbone.norm_groups=4".into(),
        "model.slot_attention.slot_size=8".into(),
        "model.slot_attention.out_size=8".into(),
        "model.unet.block_channels=[8, 16]".into(),
        "model.unet.norm_groups=4".into(),
        "evaluate.batch=2".into(),
        "train.ema_decay=0.9".into(),
        "evaluate.ema=false".into(),
        "evaluate.sampler=dpm-solver++".into(),
        "evaluate.sampling_steps=2".into(),
        "evaluate.pictures=3".into(),
        "concepts.images=11".into(),
    ];
    load::from_str(include_str!("../../../configs/quickstart.toml"), "quickstart.toml", &overrides).unwrap()
}

/// Scenes, an autoencoder and checkpoints of the initial weights for one and two workers.
pub(super) fn lab(folder: &Path, runtime: &Runtime) -> Config {
    let config = config(folder);
    run(scenes::run, &config, folder, 1, runtime).unwrap();
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(Path::new(&config.autoencoder.weights), &config.autoencoder, 32).unwrap();
    save_initial_weights(&config, folder, runtime);
    config
}

/// Runs a job on `world` threads in a run folder of its own; the summary of rank 0.
pub(super) fn run(
    job: fn(&mut JobContext) -> anyhow::Result<Value>,
    config: &Config,
    folder: &Path,
    world: usize,
    runtime: &Runtime,
) -> anyhow::Result<Value> {
    run_job(job, config, &run_dir(folder, world), world, runtime)
}

pub(super) fn run_dir(folder: &Path, world: usize) -> RunDir {
    RunDir::new(folder.join(format!("run-{world}")))
}

#[test]
fn any_number_of_workers_draws_the_same_scenes_once() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [alone, shared] = [1, 3].map(|world| {
        let mut config = config(folder.path());
        config.data.images = format!("{}-{world}", config.data.images);
        let drawn = run(scenes::run, &config, folder.path(), world, &runtime).unwrap();
        assert_eq!(drawn["train"]["state"], "drawn");
        let again = run(scenes::run, &config, folder.path(), 2, &runtime).unwrap();
        assert_eq!(again["train"]["state"], "there already");
        assert_eq!(again["train"]["fingerprint"], drawn["train"]["fingerprint"]);
        config.scenes.seed += 1;
        let refused = run(scenes::run, &config, folder.path(), 2, &runtime).unwrap_err().to_string();
        assert!(refused.contains("seed") && refused.contains(&config.data.images), "{refused}");
        drawn
    });
    assert_eq!(alone["train"], shared["train"]);
    assert_eq!(alone["validation"], shared["validation"]);
    assert_ne!(alone["train"]["fingerprint"], alone["validation"]["fingerprint"]);
}

/// A checkpoint of the initial weights in the run folders of one and of two workers.
pub(super) fn save_initial_weights(config: &Config, folder: &Path, runtime: &Runtime) {
    for world in [1, 2] {
        let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(config.run.seed), Device::Cpu);
        let state = TrainingState::new(model, config).unwrap();
        save(config, &state, &run_dir(folder, world), runtime);
    }
}

/// A checkpoint of `state` after 5 steps.
pub(super) fn save(config: &Config, state: &TrainingState, run: &RunDir, runtime: &Runtime) {
    let store = open_store(config, run).unwrap();
    let identity = Identity::new(config, "none", 1.0, 1, 1);
    let to = SaveTo { stores: vec![store], identity, nonce: 1, place: (0, 1) };
    let handle = runtime.handle().clone();
    let mut saver = Saver::start(to, state, &config.checkpoint, Device::Cpu, handle, Reporter::log_only()).unwrap();
    saver.save(state, 5, &Detours::default(), Judgement::Known(None)).unwrap();
    saver.finish().unwrap();
}

/// The last iterate differs from its moving average, which is still the initial weights: figures tell which of them was used.
#[test]
fn evaluation_uses_the_moving_average_exactly_if_asked_to() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    run(scenes::run, &config, folder.path(), 1, &runtime).unwrap();
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(Path::new(&config.autoencoder.weights), &config.autoencoder, 32).unwrap();
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Seed(config.run.seed), Device::Cpu);
    let state = TrainingState::new(model, &config).unwrap();
    let _ = tch::no_grad(|| state.parameters.values().shallow_clone().g_mul_scalar_(-1.0));
    save(&config, &state, &run_dir(folder.path(), 1), &runtime);

    let [average, last] = [true, false].map(|ema| {
        config.evaluate.ema = ema;
        // Where the run's own checkpoints would be there are none: they are in the second place alone.
        config.checkpoint.also = vec![run_dir(folder.path(), 1).checkpoints().display().to_string()];
        config.checkpoint.url = Some(folder.path().join("nothing-here").display().to_string());
        run(evaluate::run, &config, folder.path(), 1, &runtime).unwrap();
        let run = run_dir(folder.path(), 1);
        let figures: Value = serde_json::from_slice(&fs::read(run.evaluation()).unwrap()).unwrap();
        (figures["trained"] == figures["untrained"], fs::read(run.pictures().join("evaluate.png")).unwrap())
    });
    assert!(average.0 && !last.0, "the average is the untrained model: {}, the last iterate is: {}", average.0, last.0);
    assert!(average.1 != last.1, "the same pictures with either weights");
}

#[test]
fn any_number_of_workers_finds_the_same_figures_and_pictures() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    run(scenes::run, &config, folder.path(), 2, &runtime).unwrap();
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(Path::new(&config.autoencoder.weights), &config.autoencoder, 32).unwrap();
    for job in [evaluate::run, compose::run, edit::run, probe::run] {
        let missing = run(job, &config, folder.path(), 2, &runtime).unwrap_err();
        assert_eq!(failure_kind(&missing), FailureKind::BadInput);
        assert!(missing.to_string().contains("no checkpoint here"), "{missing}");
    }
    save_initial_weights(&config, folder.path(), &runtime);

    let [alone, shared] = [1, 2].map(|world| {
        run(evaluate::run, &config, folder.path(), world, &runtime).unwrap();
        run(compose::run, &config, folder.path(), world, &runtime).unwrap();
        let run = run_dir(folder.path(), world);
        let figures: Value = serde_json::from_slice(&fs::read(run.evaluation()).unwrap()).unwrap();
        // A checkpoint of the initial weights is the untrained model.
        assert_eq!(figures["trained"], figures["untrained"]);
        assert_eq!((&figures["step"], &figures["trained"]["images"]), (&5.into(), &9.into()));
        let pictures = ["evaluate.png", "compose.png", "library.png"].map(|name| fs::read(run.pictures().join(name)).unwrap());
        (figures, pictures)
    });
    for model in ["untrained", "position_only"] {
        for figure in ["fg_ari", "miou", "mbo"] {
            let [one, two] = [&alone.0, &shared.0].map(|figures| figures[model][figure].as_f64().unwrap());
            // Batches differ in size at the ends of shares, and with them the rounding of convolutions.
            assert!((one - two).abs() < 0.02, "{model} {figure}: {one} and {two}");
        }
    }
    assert!(alone.1[0] == shared.1[0], "the pictures of the first scenes differ");
    // Columns and rows: titles, 3 scenes of 1 + 7 tiles; 7 concepts of 8 members.
    let size = |png: &[u8]| image::load_from_memory(png).map(|picture| (picture.width() / 128, picture.height() / 128)).unwrap();
    for (_, pictures) in [&alone, &shared] {
        assert_eq!((size(&pictures[1]), size(&pictures[2])), ((8, 3), (8, 7)));
    }
}

/// As of faces: there is nothing to say how well objects are found, but everything that is done with slots can be done.
#[test]
fn images_without_masks_can_be_composed_and_edited_but_not_judged() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for number in 0..30_u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([8 * x as u8, 8 * y as u8, 8 * number]));
        picture.save(photos.join(format!("{number}.png"))).unwrap();
    }
    let source = format!("layout = \"images\"\nsource = \"{}\"\nvalidation_share = 0.3", photos.display());
    config.import = Some(toml::from_str(&source).unwrap());
    run(import::run, &config, folder.path(), 1, &runtime).unwrap();
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(Path::new(&config.autoencoder.weights), &config.autoencoder, 32).unwrap();
    save_initial_weights(&config, folder.path(), &runtime);

    let composed = run(compose::run, &config, folder.path(), 2, &runtime).unwrap();
    assert_eq!(composed["composed"], 3, "{composed}");
    let edited = run(edit::run, &config, folder.path(), 2, &runtime).unwrap();
    assert!(Path::new(edited["slots_picture"].as_str().unwrap()).is_file(), "{edited}");
    let refused = run(evaluate::run, &config, folder.path(), 2, &runtime).unwrap_err();
    assert_eq!(failure_kind(&refused), FailureKind::BadInput);
    assert!(refused.to_string().contains("column mask is missing"), "{refused}");
}
