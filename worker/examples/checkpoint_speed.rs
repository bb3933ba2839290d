//! Our side of `tests/peers/checkpoint.py`: trains, saves and restores as the `train` job does, and answers every line on standard input
//! with one of JSON.
//!
//! Usage: `checkpoint_speed CONFIG BATCH THREADS FOLDER [KEY=VALUE ..]`
//!
//! - `round N`: N plain steps, then a save and steps until it is committed; the seconds of each, and of the call itself
//! - `save`: a save from the call to the commit while nothing else happens
//! - `load`: the newest checkpoint into the state

use anyhow::{Context, Result};
use common::checkpoint::CheckpointStore;
use common::config::{Config, load};
use common::storage::Store;
use serde_json::{Value, json};
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;
use worker::checkpointing::{Identity, Judgement, Restorer, SaveTo, Saver};
use worker::collectives::Communicator;
use worker::data::Batch;
use worker::jobs::Reporter;
use worker::model::{Initial, LatentSlotDiffusion, Sizes};
use worker::training::detours::Detours;
use worker::training::laps::Laps;
use worker::training::noise::NoiseRecipe;
use worker::training::reduction::Reducer;
use worker::training::step::{StepRecipe, TrainingState, Wishes};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, batch, threads, folder, overrides @ ..] = &arguments[..] else {
        anyhow::bail!("usage: checkpoint_speed CONFIG BATCH THREADS FOLDER [KEY=VALUE ..]")
    };
    let (batch, threads): (usize, i32) = (batch.parse().context("BATCH")?, threads.parse().context("THREADS")?);
    tch::set_num_threads(threads);
    let mut config = load::from_file(Path::new(config), overrides)?;
    // The peers keep no moving average.
    config.train.ema_decay = 0.0;
    (config.train.global_batch, config.train.micro_batch) = (batch, Some(batch));
    // As many as the worker has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut bench = Bench::new(&config, batch, folder, runtime)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("round", steps) => bench.round(steps.parse()?)?,
            ("save", _) => bench.save_alone()?,
            ("load", _) => bench.load()?,
            _ => anyhow::bail!("unknown command {line}"),
        };
        println!("{answer}");
    }
    Ok(())
}

struct Bench {
    state: TrainingState,
    recipe: StepRecipe,
    reducer: Reducer,
    noise: NoiseRecipe,
    data: Batch,
    saver: Saver,
    restorer: Restorer,
    collective: Communicator,
}

impl Bench {
    fn new(config: &Config, batch: usize, folder: &str, runtime: Runtime) -> Result<Self> {
        let sizes = Sizes::of(config);
        let model = LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(1), Device::Cpu);
        let state = TrainingState::new(model, config)?;
        let collective = Communicator::alone(Arc::default());
        let reducer = Reducer::new(&state.parameters, &collective, &config.train.reduction)?;
        let noise = NoiseRecipe::new(config);
        let moments = [batch as i64, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side];
        let data = Batch {
            step: 0,
            noise: noise.draw(0, &(0..batch), 0),
            images: Tensor::randint(256, [batch as i64, sizes.resolution, sizes.resolution, 3], (Kind::Uint8, Device::Cpu)),
            moments: Tensor::randn(moments, (Kind::Half, Device::Cpu)),
        };
        let stores = vec![CheckpointStore::new(Store::open(folder)?)];
        let identity = Identity::new(config, "made up", 1.0, 1, 1);
        let handle = runtime.handle().clone();
        let restorer = Restorer::new(stores.clone(), identity.clone(), handle.clone());
        let nonce = u64::from(std::process::id());
        let to = SaveTo { stores, identity, nonce, place: (0, 1) };
        let saver = Saver::start(to, &state, &config.checkpoint, Device::Cpu, handle, Reporter::log_only())?;
        // It lives as long as the process.
        std::mem::forget(runtime);
        let recipe = StepRecipe::new(config, 1.0, Device::Cpu);
        Ok(Self { state, recipe, reducer, noise, data, saver, restorer, collective })
    }

    /// Seconds of one step.
    fn step(&mut self) -> Result<f64> {
        let start = Instant::now();
        let rows = self.data.rows();
        self.data.noise = self.noise.draw(self.data.step, &(0..rows), 0);
        let hold = || self.saver.before_update();
        let outcome = self.recipe.run(&mut self.state, &self.data, Wishes::default(), &self.reducer, &mut Laps::default(), hold)?;
        let loss = outcome.loss.double_value(&[]);
        anyhow::ensure!(loss.is_finite(), "the loss is {loss}");
        self.data.step += 1;
        Ok(start.elapsed().as_secs_f64())
    }

    fn save(&mut self) -> Result<()> {
        Ok(self.saver.save(&self.state, self.data.step, &Detours::default(), Judgement::Known(None))?)
    }

    fn round(&mut self, steps: usize) -> Result<Value> {
        let plain = (0..steps).map(|_| self.step()).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        self.save()?;
        let call = start.elapsed().as_secs_f64();
        let mut during = Vec::new();
        while during.is_empty() || self.saver.is_busy() {
            during.push(self.step()?);
        }
        self.saver.wait()?;
        Ok(json!({"plain": plain, "call": call, "during": during}))
    }

    fn save_alone(&mut self) -> Result<Value> {
        self.data.step += 1;
        let start = Instant::now();
        self.save()?;
        self.saver.wait()?;
        Ok(json!({"seconds": start.elapsed().as_secs_f64()}))
    }

    fn load(&mut self) -> Result<Value> {
        let start = Instant::now();
        let restored = self.restorer.restore(&self.state, &mut self.collective)?;
        anyhow::ensure!(restored.found, "there is nothing to restore");
        self.data.step = restored.step;
        let parameters = self.state.parameters.count();
        Ok(json!({"seconds": start.elapsed().as_secs_f64(), "parameters": parameters}))
    }
}
