//! Our side of `tests/peers/step_speed.py`: for every line on standard input, a number of steps, takes that many whole training steps and
//! prints their seconds.
//!
//! A step begins with a batch in the host's memory and ends with changed weights. Its noise is drawn within it, or with `--noise-ahead`
//! before the clock starts, as the loader of a training run draws it while the steps before are still running.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use common::config::{Config, CudaGraph, load};
use common::telemetry;
use std::collections::VecDeque;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};
use worker::collectives::Communicator;
use worker::data::{Batch, Transfer};
use worker::device::set_numerics;
use worker::model::{Initial, LatentSlotDiffusion, Sizes};
use worker::training::graph::{CudaGraphs, StepGraph, Trial, WARM_UP};
use worker::training::laps::Laps;
use worker::training::noise::NoiseRecipe;
use worker::training::reduction::Reducer;
use worker::training::step::{StepRecipe, TrainingState, Wishes};

/// Takes training steps on demand
#[derive(Parser)]
struct Arguments {
    /// The experiment
    config: PathBuf,
    /// What to compute on: cpu or cuda
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: Device,
    /// In what numbers: fp32, tf32 or bf16
    #[arg(long, default_value = "fp32")]
    precision: String,
    /// Images per step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// CPU threads
    #[arg(long, default_value_t = 1)]
    threads: i32,
    /// Draw the noise of the steps before the clock starts
    #[arg(long)]
    noise_ahead: bool,
    /// Launch the steps as CUDA graphs, as train.cuda_graph = "auto" does
    #[arg(long)]
    graph: bool,
    /// Change one key of the experiment
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if Cuda::is_available() => Ok(Device::Cuda(0)),
        "cuda" => anyhow::bail!("libtorch sees no CUDA device"),
        other => anyhow::bail!("no device {other}"),
    }
}

impl Arguments {
    fn config(&self) -> Result<Config> {
        let mut overrides = self.set.clone();
        overrides.push(format!("train.precision={}", self.precision));
        let mut config = load::from_file(&self.config, &overrides)?;
        // The peers keep no moving average.
        config.train.ema_decay = 0.0;
        (config.train.global_batch, config.train.micro_batch) = (self.batch, Some(self.batch));
        config.train.cuda_graph = if self.graph { CudaGraph::Auto } else { CudaGraph::Off };
        Ok(config)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    telemetry::init(None, None)?;
    tch::set_num_threads(arguments.threads);
    let mut trainer = Trainer::new(&arguments)?;
    let _track = trainer.step.enter()?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let steps = line?.trim().parse().context("each line is a number of steps")?;
        println!("{}", trainer.steps(steps)?);
    }
    Ok(())
}

/// A training run without loader, records and checkpoints.
struct Trainer {
    device: Device,
    rows: usize,
    noise_ahead: bool,
    graph: bool,
    state: TrainingState,
    step: StepGraph<CudaGraphs>,
    reducer: Reducer,
    transfer: Transfer,
    noise: NoiseRecipe,
    /// u8 [B, H, W, 3], in the host's memory.
    images: Tensor,
    /// f16 [B, 2 C, h, w], in the host's memory.
    moments: Tensor,
    /// Steps taken.
    taken: u64,
}

impl Trainer {
    fn new(arguments: &Arguments) -> Result<Self> {
        let (config, device) = (arguments.config()?, arguments.device);
        set_numerics(&config.train, device)?;
        let (sizes, rows) = (Sizes::of(&config), arguments.batch as i64);
        let state = TrainingState::new(LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(1), device), &config)?;
        Ok(Self {
            device,
            rows: arguments.batch,
            noise_ahead: arguments.noise_ahead,
            graph: arguments.graph,
            step: StepGraph::new(
                StepRecipe::new(&config, 1.0, device),
                CudaGraphs::new(config.train.cuda_graph, device),
                Trial::default(),
            ),
            reducer: Reducer::new(&state.parameters, &Communicator::alone(Arc::default()), &config.train.reduction)?,
            transfer: Transfer::new(device)?,
            noise: NoiseRecipe::new(&config),
            images: Tensor::randint(256, [rows, sizes.resolution, sizes.resolution, 3], (Kind::Uint8, Device::Cpu)),
            moments: Tensor::randn(
                [rows, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side],
                (Kind::Half, Device::Cpu),
            ),
            taken: 0,
            state,
        })
    }

    /// The batch of a step, in the host's memory.
    fn batch(&self, step: u64) -> Batch {
        let (images, moments) = (self.images.shallow_clone(), self.moments.shallow_clone());
        Batch { step, images, moments, noise: self.noise.draw(step, &(0..self.rows), 0) }
    }

    /// Takes steps, and waits for the device at their end alone. Returns the seconds.
    fn steps(&mut self, steps: u64) -> Result<f64> {
        let all = self.taken..self.taken + steps;
        let mut ahead: VecDeque<Batch> =
            if self.noise_ahead { all.clone().map(|step| self.batch(step)).collect() } else { VecDeque::new() };
        self.wait();
        let (start, mut loss) = (Instant::now(), Tensor::from(0.0));
        for step in all {
            let batch = self.transfer.bring(ahead.pop_front().unwrap_or_else(|| self.batch(step)))?;
            loss = self.step.run(&mut self.state, &batch, Wishes::default(), &self.reducer, &mut Laps::default(), || ())?.loss;
        }
        let loss = loss.double_value(&[]);
        self.wait();
        let seconds = start.elapsed().as_secs_f64();
        ensure!(loss.is_finite(), "the loss is {loss}");
        self.taken += steps;
        let late = self.graph && self.taken > 2 * WARM_UP;
        ensure!(!late || self.step.launches_graphs(), "there is no CUDA graph: standard error says why");
        Ok(seconds)
    }

    fn wait(&self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(index as i64);
        }
    }
}
