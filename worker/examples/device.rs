//! What `tests/gpu/run.py` asks of a device through the library: whether it is there, whether a step's gradients and AdamW's updates on
//! it are those of the CPU, and whether steps that are launched as CUDA graphs are the same steps. Prints figures, and ends with exit code 1
//! when one is above its limit.
//!
//! Usage: `device status`, `device gradients CONFIG cpu|cuda [KEY=VALUE ...]`, `device adamw cpu|cuda`,
//! `device graph CONFIG cuda [KEY=VALUE ...]`

use anyhow::{Result, bail, ensure};
use common::config::{Config, CudaGraph, OptimizerConfig, TrainConfig, load};
use common::telemetry;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor, no_grad};
use torch_shim::cuda::CudaStatus;
use worker::collectives::Communicator;
use worker::data::{Batch, Transfer};
use worker::device::set_numerics;
use worker::model::{Initial, LatentSlotDiffusion, Sizes};
use worker::training::graph::{CudaGraphs, StepGraph, Trial};
use worker::training::laps::Laps;
use worker::training::noise::NoiseRecipe;
use worker::training::optimizer::AdamW;
use worker::training::parameters::{FlatParameters, Group};
use worker::training::reduction::Reducer;
use worker::training::step::{StepRecipe, TrainingState, Wishes};

/// Images of the compared step.
const ROWS: usize = 8;
/// Of weights and inputs.
const SEED: u64 = 1;
/// Steps that are taken with and without graphs.
const GRAPH_STEPS: u64 = 20;
/// Kind, precision, and by how much the gradients of a module may differ, as a share of their norm. Precise f32 is at about 1e-6; where
/// TF32 slips in, it is at 1e-3.
const LIMITS: [(Kind, &str, f64); 4] =
    [(Kind::Double, "fp32", 1e-9), (Kind::Float, "fp32", 1e-4), (Kind::Float, "tf32", 2e-2), (Kind::Float, "bf16", 1e-1)];

fn main() -> Result<()> {
    telemetry::init(None, None)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["status"] => status(),
        ["gradients", config, name, ..] => {
            let config = load::from_file(Path::new(config), &arguments[3..])?;
            compare_gradients(&config, device(name)?)
        }
        ["adamw", name] => compare_adamw(device(name)?),
        ["graph", config, name, ..] => {
            let config = load::from_file(Path::new(config), &arguments[3..])?;
            compare_graph(&config, device(name)?)
        }
        _ => bail!(
            "usage: device status | device gradients CONFIG cpu|cuda [KEY=VALUE ...] | device adamw cpu|cuda | device graph CONFIG \
             cuda [KEY=VALUE ...]"
        ),
    }
}

fn status() -> Result<()> {
    let status = CudaStatus::of_this_process();
    ensure!(matches!(status, CudaStatus::Devices(_)), "{status}");
    ensure!(Cuda::cudnn_is_available(), "libtorch sees {} CUDA devices, but no cuDNN", Cuda::device_count());
    println!("libtorch sees {} CUDA devices and cuDNN", Cuda::device_count());
    Ok(())
}

fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if Cuda::is_available() => Ok(Device::Cuda(0)),
        other => bail!("there is no device {other}"),
    }
}

fn compare_gradients(config: &Config, device: Device) -> Result<()> {
    println!("seed {SEED}");
    let mut above = 0;
    for (kind, precision, limit) in LIMITS {
        let exact = Config { train: train_config(config, "fp32", ROWS)?, ..config.clone() };
        // In two parts, so that the sides differ even where the device is the CPU itself.
        let tried = Config { train: train_config(config, precision, ROWS / 2)?, ..config.clone() };
        let expected = gradients(&exact, Device::Cpu, kind)?;
        for ((module, found), (_, expected)) in gradients(&tried, device, kind)?.iter().zip(&expected) {
            let difference = ((found - expected).norm() / expected.norm()).double_value(&[]);
            let verdict = if difference <= limit { "" } else { "  ABOVE ITS LIMIT" };
            above += usize::from(difference > limit || difference.is_nan());
            println!("{precision} of {kind:?}  {module:15} differs by {difference:.1e} (limit {limit:.0e}){verdict}");
        }
    }
    ensure!(above == 0, "{above} gradients differ too much");
    Ok(())
}

/// The recipe in that precision and in micro batches, with gradients left as they are.
fn train_config(config: &Config, precision: &str, micro_batch: usize) -> Result<TrainConfig> {
    let mut train = config.train.clone();
    train.precision = serde_json::from_value(precision.into())?;
    (train.global_batch, train.micro_batch, train.clip_norm) = (ROWS, Some(micro_batch), 0.0);
    Ok(train)
}

/// The gradients of one step in the order of the modules: name and f64 `[len]` on the CPU.
fn gradients(config: &Config, device: Device, kind: Kind) -> Result<Vec<(String, Tensor)>> {
    let sizes = Sizes::of(config);
    set_numerics(&config.train, device)?;
    let model = LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(SEED), device);
    for variable in model.modules.iter().flat_map(|module| &module.variables) {
        no_grad(|| variable.tensor.shallow_clone().set_data(&variable.tensor.to_kind(kind)));
    }
    let mut state = TrainingState::new(model, config)?;
    let reducer = Reducer::new(&state.parameters, &Communicator::alone(Arc::default()), &config.train.reduction)?;
    let recipe = StepRecipe::new(config, 1.0, device);
    recipe.run(&mut state, &batch(config, sizes, 0).to_device(device), Wishes::default(), &reducer, &mut Laps::default(), || ())?;
    let all = state.parameters.gradients();
    let group = |range: &Range<i64>| all.narrow(0, range.start, range.end - range.start);
    let groups = state.parameters.groups().iter();
    Ok(groups.map(|(name, range)| (name.clone(), group(range).to_device(Device::Cpu).to_kind(Kind::Double))).collect())
}

fn batch(config: &Config, sizes: Sizes, step: u64) -> Batch {
    tch::manual_seed((SEED + step) as i64);
    let rows = ROWS as i64;
    let moments = [rows, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side];
    Batch {
        step,
        images: Tensor::randint(256, [rows, sizes.resolution, sizes.resolution, 3], (Kind::Uint8, Device::Cpu)),
        moments: Tensor::randn(moments, (Kind::Half, Device::Cpu)),
        noise: NoiseRecipe::new(config).draw(step, &(0..ROWS), 0),
    }
}

fn compare_adamw(device: Device) -> Result<()> {
    const LIMIT: f64 = 1e-6;
    println!("seed {SEED}");
    let (found, expected) = (after_adamw(device)?, after_adamw(Device::Cpu)?);
    let difference = (&found - &expected).abs().max().double_value(&[]);
    println!("after 5 updates parameters differ by {difference:.1e} (limit {LIMIT:.0e})");
    ensure!(difference <= LIMIT, "AdamW on {device:?} is not that of the CPU");
    Ok(())
}

/// Parameters after updates with random gradients, divided as by clipping, one update of them skipped; on the CPU.
fn after_adamw(device: Device) -> Result<Tensor> {
    tch::manual_seed(SEED as i64);
    let normal = |length: i64| Tensor::randn([length], (Kind::Float, Device::Cpu));
    let group = |name: &str, length: i64| {
        let variable = normal(length).to_device(device).set_requires_grad(true);
        Group { name: name.into(), variables: vec![(name.into(), variable)] }
    };
    let parameters = FlatParameters::new(vec![group("large", (1 << 20) + 3), group("small", 5)])?;
    let mut adamw = AdamW::new(&parameters, OptimizerConfig::default());
    for update in 1..=5 {
        parameters.gradients().copy_(&normal(parameters.len()).to_device(device));
        let numbers = |values: &[f32]| Tensor::from_slice(values).to_device(device);
        let (divisor, skip) = (numbers(&[2.0]), numbers(&[f32::from(u8::from(update == 3))]));
        let (rates, done) = (numbers(&[1e-2, 1e-3]), numbers(&[update as f32 - 1.0]));
        adamw.step(&parameters, &rates, &done, Some(&divisor), Some(&skip))?;
    }
    Ok(parameters.values().to_device(Device::Cpu))
}

/// Steps with and without graphs, micro batches and moving average included, under deterministic algorithms.
fn compare_graph(config: &Config, device: Device) -> Result<()> {
    const LIMIT: f64 = 1e-4;
    println!("seed {SEED}");
    let mut config = Config { train: train_config(config, "tf32", ROWS / 2)?, ..config.clone() };
    (config.train.deterministic, config.train.ema_decay, config.train.clip_norm) = (true, 0.9, 1.0);
    set_numerics(&config.train, device)?;
    let start = after_steps(&config, device, 0)?.0;
    let (expected, plain) = after_steps(&config, device, GRAPH_STEPS)?;
    config.train.cuda_graph = CudaGraph::Auto;
    let (found, graph) = after_steps(&config, device, GRAPH_STEPS)?;
    let difference = ((&found - &expected).norm() / (&expected - &start).norm()).double_value(&[]);
    println!(
        "after {GRAPH_STEPS} steps weights and averages differ by {difference:.1e} of their way (limit {LIMIT:.0e}); a step takes {:.2} ms \
         as graphs, {:.2} ms kernel by kernel",
        1e3 * graph,
        1e3 * plain
    );
    ensure!(difference <= LIMIT, "steps as graphs are other steps");
    Ok(())
}

/// Weights and moving average after so many steps, f64 on the CPU, and the seconds of a step in their second half.
fn after_steps(config: &Config, device: Device, steps: u64) -> Result<(Tensor, f64)> {
    let sizes = Sizes::of(config);
    let mut state = TrainingState::new(LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(SEED), device), config)?;
    let reducer = Reducer::new(&state.parameters, &Communicator::alone(Arc::default()), &config.train.reduction)?;
    let graphs = CudaGraphs::new(config.train.cuda_graph, device);
    let mut step = StepGraph::new(StepRecipe::new(config, 1.0, device), graphs, Trial::default());
    let _track = step.enter()?;
    let transfer = Transfer::new(device)?;
    let batches: Vec<Batch> = (0..steps).map(|number| batch(config, sizes, number)).collect();
    let (mut start, mut laps) = (Instant::now(), Laps::default());
    for batch in batches {
        if batch.step == steps / 2 {
            wait(device);
            start = Instant::now();
        }
        let batch = transfer.bring(batch)?;
        step.run(&mut state, &batch, Wishes::default(), &reducer, &mut laps, || ())?;
    }
    wait(device);
    let seconds = start.elapsed().as_secs_f64() / (steps - steps / 2).max(1) as f64;
    let wanted = config.train.cuda_graph == CudaGraph::Auto && steps > 0;
    ensure!(!wanted || step.launches_graphs(), "there is no CUDA graph: standard error says why");
    let averages = state.average.as_ref().map(|average| average.values().shallow_clone());
    let all: Vec<Tensor> = [state.parameters.values().shallow_clone()].into_iter().chain(averages).collect();
    Ok((Tensor::cat(&all, 0).to_device(Device::Cpu).to_kind(Kind::Double), seconds))
}

fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
