//! Our side of `tests/peers/samplers.py`: reads noise and a small network from a folder, samples with every CASE, and writes there the
//! latents, the timesteps at which the network was asked, and the noise schedule.
//!
//! Usage: `samplers FOLDER SNR_GAMMA CASE..`, each case `SAMPLER/STEPS/PREDICTION/BETAS` in the words of the configuration

use anyhow::{Context, Result};
use common::config::DiffusionConfig;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Tensor};
use worker::diffusion::{NoiseSchedule, ddim, ddpm, dpm_solver};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, snr_gamma, cases @ ..] = &arguments[..] else { anyhow::bail!("usage: samplers FOLDER SNR_GAMMA CASE..") };
    tch::set_num_threads(1);
    let (folder, snr_gamma) = (Path::new(folder), snr_gamma.parse().context("SNR_GAMMA")?);
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(folder.join("inputs.safetensors"))?.into_iter().collect();
    let input = |name: &str| inputs.get(name).with_context(|| format!("inputs.safetensors has no {name}"));
    let (noise, fresh) = (input("noise")?, input("fresh")?);
    let (inner, time, outer) = (input("inner")?, input("time")?, input("outer")?);
    // As the peer's `network`.
    let network = |z_t: &Tensor, t: usize| {
        let hidden = z_t.flatten(1, -1).matmul(inner) + time * (t as f64 / 1000.0);
        hidden.tanh().matmul(outer).view_as(z_t)
    };

    let mut outputs = Vec::new();
    for case in cases {
        let [sampler, steps, prediction, betas] = case.split('/').collect::<Vec<_>>()[..] else { anyhow::bail!("case {case}") };
        let config = DiffusionConfig { prediction: word(prediction)?, betas: word(betas)?, snr_gamma, ..Default::default() };
        let schedule = NoiseSchedule::new(&config, Device::Cpu);
        let steps: usize = steps.parse()?;
        let mut timesteps = Vec::new();
        let predict = |z_t: &Tensor, t: usize| {
            timesteps.push(t as i64);
            network(z_t, t)
        };
        let latents = match sampler {
            "ddim" => ddim::sample(&schedule, noise, steps, predict),
            "ddpm" => ddpm::sample(&schedule, noise, predict, |t| fresh.get(t as i64)),
            "dpm-solver++" => dpm_solver::sample(&schedule, noise, steps, predict),
            other => anyhow::bail!("no sampler {other}"),
        };
        let found = [
            ("latents", latents),
            ("timesteps", Tensor::from_slice(&timesteps)),
            ("alpha_bar", of_all(&schedule, alpha_bar)),
            ("weights", of_all(&schedule, weight)),
        ];
        outputs.extend(found.map(|(name, tensor)| (format!("{case}/{name}"), tensor)));
    }
    Tensor::write_safetensors(&outputs, folder.join("outputs.safetensors"))?;
    Ok(())
}

/// A word of the configuration.
fn word<T: DeserializeOwned>(word: &str) -> Result<T> {
    Ok(serde_json::from_value(word.into())?)
}

/// A figure of every timestep [T].
fn of_all(schedule: &NoiseSchedule, figure: fn(&NoiseSchedule, usize) -> f64) -> Tensor {
    Tensor::from_slice(&(0..schedule.timesteps()).map(|t| figure(schedule, t)).collect::<Vec<_>>())
}

/// Share of the signal's variance left at timestep `t`.
fn alpha_bar(schedule: &NoiseSchedule, t: usize) -> f64 {
    schedule.alpha_bar(Some(t))
}

/// Weight of timestep `t` in the loss: the loss of an error of 1.
fn weight(schedule: &NoiseSchedule, t: usize) -> f64 {
    let zero = Tensor::zeros([1, 1, 1, 1], (tch::Kind::Double, Device::Cpu));
    schedule.loss(&zero.ones_like(), &zero, &Tensor::from_slice(&[t as i64])).double_value(&[])
}
