//! Training as a whole, on an experiment of a few kilobytes.
#![allow(clippy::unwrap_used)]

use super::step::{StepRecipe, TrainingState};
use crate::checkpointing::open_store;
use crate::collectives::{Collective, CollectiveError, InProcess, Solo};
use crate::data::{Batch, Loader, Slice, open_split};
use crate::jobs::{self, JobContext, Reporter, StopFlag, failure_kind};
use crate::metrics::Record;
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::place::Place;
use common::checkpoint::Manifest;
use common::config::{Config, load};
use common::control::FailureKind;
use common::job::Job;
use common::run_dir::RunDir;
use common::shards::{Column, DType, Schema, ShardWriter};
use common::storage::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIG: &str = include_str!("tests.toml");
const ROWS: usize = 24;

/// A folder with a data set, and a runtime.
struct Lab {
    folder: TempDir,
    runtime: Runtime,
}

impl Lab {
    fn new() -> Self {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lab = Self { folder, runtime };
        lab.write_data_set(5, false);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, overrides: &[&str]) -> Config {
        let mut overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        overrides.push(format!("data.latents={}", self.path("latents").display()));
        load::from_str(CONFIG, "tests.toml", &overrides).unwrap()
    }

    /// Coloured squares on a dark ground, and moments that are their colour: something to learn; if `flip`, those of the mirrored squares
    /// too.
    fn write_data_set(&self, seed: i64, flip: bool) {
        let mut schema = vec![Column::hot("moments", DType::F16, &[4, 4, 4]), Column::cold("image", DType::U8, &[16, 16, 3])];
        tch::manual_seed(seed);
        let colours = Tensor::rand([ROWS as i64, 1, 1, 3], (Kind::Float, Device::Cpu));
        let images = Tensor::full([ROWS as i64, 16, 16, 3], 30.0, (Kind::Float, Device::Cpu));
        for row in 0..ROWS as i64 {
            let (top, left) = (row % 4 * 4, row / 4 % 3 * 4);
            images.get(row).narrow(0, top, 4).narrow(1, left, 8).copy_(&(colours.get(row) * 225.0 + 30.0).expand([4, 8, 3], false));
        }
        let small = images.permute([0, 3, 1, 2]).adaptive_avg_pool2d([4, 4]) / 64.0 - 1.0;
        let mean = small.narrow(1, 0, 2);
        let moments = Tensor::cat(&[&mean, &(mean.zeros_like() - 6.0)], 1);
        let mut columns = vec![bytes(&moments.to_kind(Kind::Half)), bytes(&images.to_kind(Kind::Uint8))];
        if flip {
            schema.push(Column::hot("moments_flipped", DType::F16, &[4, 4, 4]));
            columns.push(bytes(&moments.flip([3]).to_kind(Kind::Half)));
        }
        let schema = Schema { columns: schema };
        self.runtime.block_on(async {
            let store = Store::open(&self.path("latents").display().to_string()).unwrap().child("train");
            let metadata = json!({"kind": "test", "scaling_factor": 1.5});
            let writer = ShardWriter::open(store, schema, metadata, ROWS as u64, 8).await.unwrap();
            for shard in 0..writer.shards() {
                let rows = writer.shard_rows(shard);
                let part = |column: &Vec<u8>| {
                    let row = column.len() / ROWS;
                    column[rows.start as usize * row..rows.end as usize * row].to_vec()
                };
                writer.write_shard(shard, &columns.iter().map(part).collect::<Vec<_>>()).await.unwrap();
            }
            writer.commit().await.unwrap();
        });
    }

    fn context(&self, config: &Config, place: Place, collective: Box<dyn Collective>) -> JobContext {
        let run = RunDir::new(self.path(&config.run.name));
        JobContext {
            config: config.clone(),
            job_dir: run.clone(),
            run,
            place,
            collective,
            reporter: Reporter::log_only(),
            stop: StopFlag::default(),
            runtime: self.runtime.handle().clone(),
            device: Device::Cpu,
        }
    }

    /// Trains with one worker to the end.
    fn train(&self, config: &Config, generation: u64) -> anyhow::Result<Value> {
        jobs::run(Job::Train, &mut self.context(config, Place::alone(generation), Box::new(Solo)))
    }

    /// Trains with two workers; rank 1 is asked to stop after it was started, if `stop`.
    fn train_by_two(&self, config: &Config, stop: bool) -> Vec<Value> {
        std::thread::scope(|scope| {
            let workers = InProcess::world(2).into_iter().enumerate().map(|(rank, end)| {
                scope.spawn(move || {
                    let place = Place { rank, world: 2, local_rank: rank, generation: 1 };
                    let mut context = self.context(config, place, Box::new(end));
                    if stop && rank == 1 {
                        context.stop.request();
                    }
                    jobs::run(Job::Train, &mut context).unwrap()
                })
            });
            workers.collect::<Vec<_>>().into_iter().map(|worker| worker.join().unwrap()).collect()
        })
    }

    /// The newest checkpoint and the digest of each of its parts.
    fn newest(&self, config: &Config) -> (Manifest, BTreeMap<String, String>) {
        let store = open_store(config, &RunDir::new(self.path(&config.run.name))).unwrap();
        let manifest = self.runtime.block_on(store.newest_verified()).unwrap().0.unwrap();
        let parts = manifest.parts.iter().map(|part| (part.name.clone(), part.blake3.clone())).collect();
        (manifest, parts)
    }

    fn records(&self, config: &Config) -> Vec<Record> {
        let text = fs::read_to_string(RunDir::new(self.path(&config.run.name)).metrics()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    let mut bytes = vec![0; length];
    tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn message(result: anyhow::Result<Value>) -> String {
    let error = result.unwrap_err();
    assert_eq!(failure_kind(&error), FailureKind::BadInput, "{error:#}");
    format!("{error:#}")
}

#[test]
fn the_loss_goes_down_and_everything_is_written_down() {
    let lab = Lab::new();
    let config = lab.config(&["train.steps=80", "train.picture_every=40"]);
    let summary = lab.train(&config, 1).unwrap();
    assert_eq!((&summary["steps"], &summary["stopped"]), (&json!(80), &json!(false)));
    let losses: Vec<f64> = lab.records(&config).iter().map(|record| record.figures["loss"]).collect();
    assert_eq!(losses.len(), 80);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..20]), mean(&losses[60..]));
    assert!(last < 0.8 * first, "{first} -> {last}");
    let (manifest, parts) = lab.newest(&config);
    assert_eq!((manifest.step, manifest.extra["position"].as_u64()), (80, Some(80 * 4)));
    let names = [
        "ema-multiheadstevesa",
        "ema-unet2dconditionmodelwithpos",
        "ema-unetencoder",
        "optimizer",
        "weights-multiheadstevesa",
        "weights-unet2dconditionmodelwithpos",
        "weights-unetencoder",
    ];
    assert!(parts.keys().eq(names.iter()), "{parts:?}");
}

#[test]
fn a_run_resumed_from_any_checkpoint_ends_bit_equal() {
    let lab = Lab::new();
    let straight = lab.config(&["run.name=straight", "checkpoint.every_steps=5", "checkpoint.keep_last=9"]);
    lab.train(&straight, 1).unwrap();
    let checkpoints = RunDir::new(lab.path("straight")).checkpoints();
    for kept in [5, 10] {
        // As after a SIGKILL between the steps 5 (10) and 10 (15): later checkpoints never came into being.
        let resumed = lab.config(&["checkpoint.every_steps=5", &format!("checkpoint.url={}", lab.path("again").display())]);
        let resumed = Config { run: straight.run.clone(), ..resumed };
        let _ = fs::remove_dir_all(lab.path("again"));
        copy(&checkpoints, &lab.path("again"), kept);
        lab.train(&resumed, 2).unwrap();
        assert_eq!(lab.newest(&resumed).1, lab.newest(&straight).1, "resumed from step {kept}");
    }
}

/// Copies the checkpoints up to step `last`.
fn copy(from: &Path, to: &Path, last: u64) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let step = entry.file_name().to_str().unwrap().parse().unwrap_or(0);
        if entry.path().is_dir() && step <= last {
            copy(&entry.path(), &to.join(entry.file_name()), last);
        } else if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The batch of step 3 of one worker.
fn third_batch(lab: &Lab, config: &Config, slice: Slice) -> Batch {
    let dataset = open_split(lab.runtime.handle(), &config.data.latents, "train", 16).unwrap();
    let mut loader = Loader::start(config, "latents", dataset, slice, 3..4, lab.runtime.handle()).unwrap();
    let batch = loader.next_batch().unwrap().unwrap();
    assert!(loader.next_batch().unwrap().is_none());
    batch
}

fn fresh_state(config: &Config) -> TrainingState {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(1), Device::Cpu);
    TrainingState::new(model, config).unwrap()
}

/// Gradients and loss of step 3, as this worker has them after the all-reduce.
fn reduced(lab: &Lab, config: &Config, collective: &mut dyn Collective) -> Tensor {
    let (rank, world) = (collective.rank(), collective.world());
    let mut state = fresh_state(config);
    let slice = Slice { global_batch: config.train.global_batch, rank, world };
    let batch = third_batch(lab, config, slice);
    let recipe = StepRecipe::new(config, 1.5, Device::Cpu);
    recipe.run(&mut state, &batch, slice.rows(), rank == 1, collective).unwrap();
    state.parameters.reduced().copy()
}

/// Largest difference, as a share of the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
}

#[test]
fn the_gradients_of_two_workers_are_those_of_one() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_data_set(5, true);
    let options = [
        "data.flip=true",
        "diffusion.snr_gamma=5",
        "diffusion.offset_noise=0.5",
        "train.slot_dropout=0.5",
        // Rows per worker are 4 or 2: parts of unequal size either way.
        "train.micro_batch=3",
    ];
    let mut seen = Vec::new();
    for options in [&options[..], &[]] {
        let config = lab.config(&[&["train.clip_norm=0"], options].concat());
        let alone = reduced(&lab, &config, &mut Solo);
        let together: Vec<Tensor> = std::thread::scope(|scope| {
            let (lab, config) = (&lab, &config);
            let ends = InProcess::world(2).into_iter();
            let workers: Vec<_> = ends.map(|mut end| scope.spawn(move || reduced(lab, config, &mut end))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(together[0], together[1], "all workers have the same bits");
        let count = alone.numel() as i64 - 1;
        let (alone, stop) = (alone.narrow(0, 0, count), together[0].narrow(0, count, 1));
        assert_eq!(stop.double_value(&[0]), 1.0, "the wish of rank 1 to stop has reached rank 0");
        let found = difference(&together[0].narrow(0, 0, count), &alone);
        assert!(found <= 1e-5, "{options:?}: {found} of the largest");
        seen.push(alone);
    }
    assert!(difference(&seen[0], &seen[1]) > 0.1, "the options have no effect");
}

/// One worker that counts what it would have to send.
struct Counting(usize);

impl Collective for Counting {
    fn rank(&self) -> usize {
        0
    }
    fn world(&self) -> usize {
        1
    }
    fn all_reduce_sum(&mut self, _tensor: &Tensor) -> Result<(), CollectiveError> {
        self.0 += 1;
        Ok(())
    }
    fn broadcast(&mut self, _tensor: &Tensor, _root: usize) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn abort(&mut self, _exit_code: u8) {}
}

/// The reference leaves a micro batch out of its first update, and reduces the gradients of every one of them.
#[test]
fn micro_batches_of_any_size_take_the_same_steps_with_one_all_reduce_each() {
    let lab = Lab::new();
    // Adam divides by the gradients' size, so that where there is none, rounding alone would decide; a large epsilon prevents that.
    let common = ["train.global_batch=8", "train.optimizer.epsilon=1e-3", "diffusion.snr_gamma=5"];
    let train = |overrides: &[&str]| {
        let config = lab.config(&[&common, overrides].concat());
        let mut state = fresh_state(&config);
        let slice = Slice { global_batch: 8, rank: 0, world: 1 };
        let mut batch = third_batch(&lab, &config, slice);
        let recipe = StepRecipe::new(&config, 1.5, Device::Cpu);
        let mut counting = Counting(0);
        let mut losses = Vec::new();
        for step in 0..3 {
            batch.step = step;
            let outcome = recipe.run(&mut state, &batch, slice.rows(), false, &mut counting).unwrap();
            assert_eq!(outcome.attention.size()[0], 8, "attention of every image");
            losses.push(outcome.loss.double_value(&[]));
        }
        assert_eq!(counting.0, 3, "all-reduces in 3 steps");
        (state.parameters.values().copy(), Tensor::from_slice(&losses))
    };
    let whole = train(&[]);
    for size in ["1", "3", "8"] {
        let parts = train(&[&format!("train.micro_batch={size}")]);
        let (parameters, losses) = (difference(&parts.0, &whole.0), difference(&parts.1, &whole.1));
        assert!(parameters <= 1e-5 && losses <= 1e-5, "micro batches of {size}: parameters {parameters}, losses {losses}");
    }
}

/// Which worker loads a sample, and with how many others, decides nothing; image and latent are mirrored together.
#[test]
fn chance_mirrors_image_and_latent_together_whatever_the_number_of_workers() {
    let lab = Lab::new();
    let config = lab.config(&["data.flip=true", "train.global_batch=24"]);
    let text = message(lab.train(&config, 1));
    assert!(text.contains("data.flip = true needs the column moments_flipped") && text.contains("encode job"), "{text}");

    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_data_set(5, true);
    let whole = |config: &Config, world: usize| {
        let parts = (0..world).map(|rank| third_batch(&lab, config, Slice { global_batch: 24, rank, world })).collect::<Vec<_>>();
        let images: Vec<&Tensor> = parts.iter().map(|part| &part.images).collect();
        let moments: Vec<&Tensor> = parts.iter().map(|part| &part.moments).collect();
        (Tensor::cat(&images, 0), Tensor::cat(&moments, 0))
    };
    let plain = whole(&lab.config(&["train.global_batch=24"]), 1);
    let flipped = whole(&config, 1);
    assert_eq!(whole(&config, 2), flipped);
    let mut mirrored = 0;
    for row in 0..24 {
        let plain = (plain.0.get(row), plain.1.get(row));
        let flipped = (flipped.0.get(row), flipped.1.get(row));
        if flipped != plain {
            mirrored += 1;
            assert_eq!(flipped, (plain.0.flip([1]), plain.1.flip([2])), "row {row}");
        }
    }
    assert!((4..=20).contains(&mirrored), "{mirrored} of 24 are mirrored");
}

/// A dropped image teaches the denoiser only.
#[test]
fn slots_that_are_dropped_get_no_gradient() {
    let lab = Lab::new();
    let config = lab.config(&["train.slot_dropout=0.999999999", "train.clip_norm=0"]);
    let gradients = reduced(&lab, &config, &mut Solo);
    for (name, range) in fresh_state(&config).parameters.groups() {
        let largest = gradients.narrow(0, range.start, range.end - range.start).abs().max().double_value(&[]);
        assert_eq!(largest > 0.0, name == "unet", "{name}: {largest}");
    }
}

#[test]
fn one_worker_that_is_asked_to_stop_stops_all_and_the_run_goes_on_bit_equal() {
    let lab = Lab::new();
    let straight = lab.config(&["run.name=straight"]);
    lab.train_by_two(&straight, false);
    let stopped = lab.config(&["run.name=straight", &format!("checkpoint.url={}", lab.path("stopped").display())]);
    for summary in lab.train_by_two(&stopped, true) {
        assert_eq!((&summary["steps"], &summary["stopped"]), (&json!(1), &json!(true)));
    }
    assert_eq!(lab.newest(&stopped).0.step, 1);
    lab.train_by_two(&stopped, false);
    assert_eq!(lab.newest(&stopped).1, lab.newest(&straight).1);
}

#[test]
fn a_checkpoint_of_other_settings_or_other_data_is_refused() {
    let lab = Lab::new();
    let config = lab.config(&["train.steps=2", "train.decay=constant"]);
    lab.train(&config, 1).unwrap();
    let before = lab.newest(&config).1;
    let refused =
        |overrides: &[&str]| message(lab.train(&lab.config(&[&["train.steps=4", "train.decay=constant"], overrides].concat()), 2));
    let text = refused(&["train.groups.unet.learning_rate=0.5"]);
    assert!(text.contains("checkpoint of step 2 has another configuration"), "{text}");
    let text = refused(&["run.seed=9"]);
    assert!(text.contains("another configuration"), "{text}");
    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_data_set(6, false);
    let text = refused(&[]);
    assert!(text.contains("another data set"), "{text}");
    assert_eq!(lab.newest(&config).1, before);
}

#[test]
fn input_that_cannot_be_trained_on_is_named_before_the_first_step() {
    let lab = Lab::new();
    let text = message(lab.train(&lab.config(&["train.global_batch=25"]), 1));
    assert!(text.contains("24 samples are fewer than one global batch of 25"), "{text}");
    let text = message(lab.train(&lab.config(&["data.resolution=32"]), 1));
    assert!(text.contains("column image is U8 [16, 16, 3], the configuration needs U8 [32, 32, 3]"), "{text}");
    let shard = fs::read_dir(lab.path("latents/train")).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.filter(|path| path.to_string_lossy().ends_with("cold.safetensors")).min().unwrap();
    let mut content = fs::read(&shard).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&shard, content).unwrap();
    let text = message(lab.train(&lab.config(&[]), 1));
    assert!(text.contains(shard.file_name().unwrap().to_str().unwrap()) && text.contains("damaged"), "{text}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoints() {
    let lab = Lab::new();
    let config = lab.config(&[
        "train.groups.unet.learning_rate=1e30",
        "train.groups.unet.warmup_steps=0",
        "train.log_every=1000",
        "checkpoint.every_steps=1",
    ]);
    let text = message(lab.train(&config, 1));
    assert!(text.contains("step 2: the loss is not finite"), "{text}");
    assert_eq!(lab.newest(&config).0.step, 1);
}
