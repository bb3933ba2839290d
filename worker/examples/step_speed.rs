//! Our side of `tests/peers/step_speed.py`: takes one whole training step for every line on standard input, and prints its seconds.
//!
//! Usage: `step_speed CONFIG BATCH THREADS`

use anyhow::{Context, Result};
use common::config::load;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use worker::collectives::Communicator;
use worker::data::Batch;
use worker::model::{Initial, LatentSlotDiffusion, Sizes};
use worker::training::laps::Laps;
use worker::training::noise::NoiseRecipe;
use worker::training::reduction::Reducer;
use worker::training::step::{StepRecipe, TrainingState, Wishes};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, batch, threads] = &arguments[..] else { anyhow::bail!("usage: step_speed CONFIG BATCH THREADS") };
    let (batch, threads): (i64, i32) = (batch.parse().context("BATCH")?, threads.parse().context("THREADS")?);
    tch::set_num_threads(threads);

    let mut config = load::from_file(Path::new(config), &[])?;
    // The peer keeps no moving average.
    config.train.ema_decay = 0.0;
    (config.train.global_batch, config.train.micro_batch) = (batch as usize, Some(batch as usize));
    let sizes = Sizes::of(&config);
    let model = LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(1), Device::Cpu);
    let mut state = TrainingState::new(model, &config)?;
    let recipe = StepRecipe::new(&config, 1.0, Device::Cpu);
    let reducer = Reducer::new(&state.parameters, &Communicator::alone(Arc::default()), &config.train.reduction)?;
    let noise = NoiseRecipe::new(&config);
    let mut data = Batch {
        step: 0,
        noise: noise.draw(0, &(0..batch as usize), 0),
        images: Tensor::randint(256, [batch, sizes.resolution, sizes.resolution, 3], (Kind::Uint8, Device::Cpu)),
        moments: Tensor::randn([batch, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side], (Kind::Half, Device::Cpu)),
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        // The peer draws its noise in the step, so ours counts too.
        data.noise = noise.draw(data.step, &(0..batch as usize), 0);
        let outcome = recipe.run(&mut state, &data, Wishes::default(), &reducer, &mut Laps::default(), || ())?;
        // Reading the loss ends the step, as in the peer.
        let loss = outcome.loss.double_value(&[]);
        println!("{}", start.elapsed().as_secs_f64());
        anyhow::ensure!(loss.is_finite(), "the loss is {loss}");
        data.step += 1;
    }
    Ok(())
}
