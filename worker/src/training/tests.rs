//! Training as a whole, on an experiment of a few kilobytes.
#![allow(clippy::unwrap_used)]

use crate::checkpointing::open_store;
use crate::collectives::{Communicator, InProcess};
use crate::jobs::{self, JobContext, Reporter, SaveFlag, StopFlag, failure_kind};
use crate::metrics::Record;
use common::checkpoint::Manifest;
use common::config::{Config, load};
use common::job::Job;
use common::place::Place;
use common::run_dir::RunDir;
use common::shards::{Column, DType, Schema, ShardWriter};
use common::storage::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONFIG: &str = include_str!("tests.toml");
const ROWS: usize = 24;

/// A folder with a data set, and a runtime.
pub(super) struct Lab {
    folder: TempDir,
    pub(super) runtime: Runtime,
}

impl Lab {
    pub(super) fn new() -> Self {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lab = Self { folder, runtime };
        lab.write_data_set(5, false);
        lab
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn config(&self, overrides: &[&str]) -> Config {
        let mut overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        overrides.push(format!("data.latents={}", self.path("latents").display()));
        load::from_str(CONFIG, "tests.toml", &overrides).unwrap()
    }

    /// Coloured squares on a dark ground, and moments that are their colour: something to learn; if `flip`, those of the mirrored squares
    /// too.
    pub(super) fn write_data_set(&self, seed: i64, flip: bool) {
        self.write_rows(seed, flip, None);
    }

    /// The same, with moments that are no numbers in row `spoiled`.
    fn write_rows(&self, seed: i64, flip: bool, spoiled: Option<i64>) {
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
        if let Some(row) = spoiled {
            let _ = moments.get(row).fill_(f64::INFINITY);
        }
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

    fn context(&self, config: &Config, place: Place, collective: Communicator) -> JobContext {
        let run = RunDir::new(self.path(&config.run.name));
        JobContext {
            config: config.clone(),
            job_dir: run.clone(),
            run,
            place,
            collective,
            reporter: Reporter::log_only(),
            stop: StopFlag::default(),
            save: SaveFlag::default(),
            runtime: self.runtime.handle().clone(),
            device: Device::Cpu,
            profile: 0,
        }
    }

    /// Trains with one worker to the end.
    pub(super) fn train(&self, config: &Config, generation: u64) -> anyhow::Result<Value> {
        jobs::run(Job::Train, &mut self.context(config, Place::alone(generation), Communicator::alone(Arc::default())))
    }

    /// Trains with two workers; rank 1 is asked to stop after it was started, if `stop`.
    pub(super) fn train_by_two(&self, config: &Config, stop: bool) -> Vec<Value> {
        std::thread::scope(|scope| {
            let workers = InProcess::world(2).into_iter().enumerate().map(|(rank, end)| {
                scope.spawn(move || {
                    let place = Place { rank, world: 2, local_rank: rank, generation: 1 };
                    let collective = Communicator::start(move || Ok(Box::new(end)), Device::Cpu, Arc::default()).unwrap();
                    let mut context = self.context(config, place, collective);
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
    pub(super) fn newest(&self, config: &Config) -> (Manifest, BTreeMap<String, String>) {
        let store = open_store(config, &RunDir::new(self.path(&config.run.name))).unwrap();
        let manifest = self.runtime.block_on(store.newest_verified()).unwrap().0.unwrap();
        let parts = manifest.parts.iter().map(|part| (part.name.clone(), part.blake3.clone())).collect();
        (manifest, parts)
    }

    pub(super) fn records(&self, config: &Config) -> Vec<Record> {
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

/// What a refusal of bad input says.
pub(super) fn message(result: anyhow::Result<Value>) -> String {
    let error = result.unwrap_err();
    assert!(!failure_kind(&error).restart_helps(), "{error:#}");
    format!("{error:#}")
}

#[test]
fn the_loss_goes_down_and_everything_is_written_down() {
    let lab = Lab::new();
    let config = lab.config(&["train.steps=80", "train.picture_every=40", "train.cuda_graph=auto"]);
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
        "exp_avg-backbone",
        "exp_avg-slot_attention",
        "exp_avg-unet",
        "exp_avg_sq-backbone",
        "exp_avg_sq-slot_attention",
        "exp_avg_sq-unet",
        "weights-multiheadstevesa",
        "weights-unet2dconditionmodelwithpos",
        "weights-unetencoder",
    ];
    assert!(parts.keys().eq(names.iter()), "{parts:?}");
}

/// Looking closely changes nothing but the time that it takes.
#[test]
fn a_profile_names_the_parts_of_the_step_and_leaves_the_weights_alone() {
    let lab = Lab::new();
    let (plain, profiled) = (lab.config(&["run.name=run", "train.steps=8"]), lab.config(&["run.name=run", "train.steps=8"]));
    lab.train(&plain, 1).unwrap();
    let expected = lab.newest(&plain).1;
    fs::remove_dir_all(lab.path("run")).unwrap();
    let mut context = lab.context(&profiled, Place::alone(1), Communicator::alone(Arc::default()));
    context.profile = 2;
    jobs::run(Job::Train, &mut context).unwrap();
    assert_eq!(lab.newest(&profiled).1, expected);
    let trace = fs::read(lab.path("run/profile/gen-001-rank-00000.json")).unwrap();
    let trace: Value = serde_json::from_slice(&trace).unwrap();
    let names: Vec<&str> = trace["traceEvents"].as_array().unwrap().iter().filter_map(|event| event["name"].as_str()).collect();
    let count = |name: &str| names.iter().filter(|found| **found == name).count();
    assert_eq!((count("forward"), count("backward"), count("optimizer")), (2, 2, 2));
    assert!(count("aten::_fused_adamw_") >= 2, "operations are in it too");
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
pub(super) fn copy(from: &Path, to: &Path, last: u64) {
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

/// One image in 24 cannot be learned from; every epoch of six steps meets it once.
#[test]
fn steps_without_numbers_are_skipped_or_gone_back_from_as_configured() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_rows(5, false, Some(7));
    let policy = |policy: &str| {
        let name = format!("run.name={policy}");
        lab.config(&[
            &name,
            &format!("train.not_finite={policy}"),
            "train.steps=12",
            "checkpoint.every_steps=1",
            "train.ema_decay=0.9",
        ])
    };
    let config = policy("skip");
    lab.train_by_two(&config, false);
    assert_eq!(lab.newest(&config).0.step, 12);
    let skipped: f64 = lab.records(&config).iter().map(|record| record.figures["skipped_steps"]).sum();
    let lost = 12 - lab.records(&config).len();
    assert_eq!(skipped + lost as f64, 2.0, "steps without a record, and skipped steps within one");

    // Other noise does not mend an image, and in the end that is said.
    for config in [policy("stop"), policy("back")] {
        let text = message(lab.train(&config, 1));
        assert!(text.contains("is not finite"), "{text}");
        assert_eq!(text.contains("cannot go back from step"), config.run.name == "back", "{text}");
        let newest = lab.newest(&config).0;
        assert!(newest.step < 6 && text.contains(&format!("step {}: ", newest.step + 1)), "{} of {text}", newest.step);
    }
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
