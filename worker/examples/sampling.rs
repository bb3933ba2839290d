//! Our side of `tests/peers/sampling.py`: paints pictures from the slots, the noise and the weights in a folder, once for every line on standard
//! input; prints the seconds, and leaves the pictures there.

use anyhow::{Context, Result};
use clap::Parser;
use common::config::{Sampler, load};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Tensor};
use worker::inference::Decoder;
use worker::model::{Autoencoder, Initial, LatentSlotDiffusion, Module, Sizes, weights};

/// Samples on demand
#[derive(Parser)]
struct Arguments {
    /// The experiment
    config: PathBuf,
    /// Where weights and inputs are
    folder: PathBuf,
    /// CPU threads
    #[arg(long, default_value_t = 1)]
    threads: i32,
    /// Steps of the sampler
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Change one key of the experiment
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tch::set_num_threads(arguments.threads);
    let mut config = load::from_file(&arguments.config, &arguments.set)?;
    (config.evaluate.sampler, config.evaluate.sampling_steps) = (Sampler::DpmSolver, arguments.steps);
    config.autoencoder.scaling_factor = Some(1.0);
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Seed(1), Device::Cpu);
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Unset, Device::Cpu);
    for module in model.modules.iter().filter(|module| module.name == "unet").chain([&autoencoder.module]) {
        read(&arguments.folder, module)?;
    }
    let decoder = Decoder::new(&config, autoencoder, Device::Cpu);
    let inputs = Tensor::read_safetensors(arguments.folder.join("inputs.safetensors"))?;
    let inputs: BTreeMap<String, Tensor> = inputs.into_iter().collect();
    let input = |name: &str| inputs.get(name).with_context(|| format!("inputs.safetensors has no {name}"));
    let (noise, conditioning) = (input("noise")?, input("conditioning")?);
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let images = decoder.paint(&model, conditioning, noise);
        println!("{}", start.elapsed().as_secs_f64());
        Tensor::write_safetensors(&[("images", images)], arguments.folder.join("ours.safetensors"))?;
    }
    Ok(())
}

/// The weights of one module.
fn read(folder: &Path, module: &Module) -> Result<()> {
    let file = folder.join(format!("{}.safetensors", module.name));
    Ok(weights::from_safetensors(&file, &std::fs::read(&file)?, &module.variables)?)
}
