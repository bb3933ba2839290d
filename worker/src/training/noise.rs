//! Everything random that a step needs, drawn with its batch, ahead of the step: timesteps, noises, and which images lose their slots.

use super::random::{Draws, Purpose};
use crate::model::Sizes;
use common::config::Config;
use std::ops::Range;
use tch::Tensor;

/// What chance has decided for the images of a batch.
#[derive(Debug)]
pub struct StepNoise {
    /// Timesteps i64 [B].
    pub timesteps: Tensor,
    /// Of the posterior sample of the autoencoder, f32 [B, C, h, w].
    pub posterior: Tensor,
    /// Added to the latents, with `diffusion.offset_noise` in it, f32 [B, C, h, w].
    pub diffusion: Tensor,
    /// Of the initial slots, f32 [B, K, D].
    pub slots: Tensor,
    /// Which images are denoised without their slots, bool [B]; none without `train.slot_dropout`.
    pub dropped: Option<Tensor>,
}

impl StepNoise {
    /// The same with every tensor changed by `change`.
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            timesteps: change(&self.timesteps),
            posterior: change(&self.posterior),
            diffusion: change(&self.diffusion),
            slots: change(&self.slots),
            dropped: self.dropped.as_ref().map(change),
        }
    }
}

impl StepNoise {
    /// All of its tensors, always in the same order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.timesteps, &self.posterior, &self.diffusion, &self.slots].into_iter().chain(&self.dropped)
    }

    /// The same, where a change may fail.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<E>(&self, change: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        Ok(Self {
            timesteps: change(&self.timesteps)?,
            posterior: change(&self.posterior)?,
            diffusion: change(&self.diffusion)?,
            slots: change(&self.slots)?,
            dropped: self.dropped.as_ref().map(change).transpose()?,
        })
    }
}

/// How a run draws its noise.
#[derive(Debug, Clone)]
pub struct NoiseRecipe {
    draws: Draws,
    timesteps: usize,
    /// [C, h, w]
    latent: [i64; 3],
    /// [K, D]
    slots: [i64; 2],
    offset_noise: f64,
    slot_dropout: f64,
}

impl NoiseRecipe {
    /// The draws that a configuration describes.
    pub fn new(config: &Config) -> Self {
        let Sizes { latent_side, latent_channels, .. } = Sizes::of(config);
        let slots = &config.model.slot_attention;
        Self {
            draws: Draws::new(config.run.seed),
            timesteps: config.diffusion.timesteps,
            latent: [latent_channels, latent_side, latent_side],
            slots: [slots.slots, slots.slot_size],
            offset_noise: config.diffusion.offset_noise,
            slot_dropout: config.train.slot_dropout,
        }
    }

    /// The noise for `rows` of the global batch of `step`, on the CPU. Each `detour` is other noise for the same steps.
    pub fn draw(&self, step: u64, rows: &Range<usize>, detour: u64) -> StepNoise {
        let draws = self.draws.detour(detour);
        let normal = |purpose, shape: &[i64]| draws.normal(step, purpose, rows.clone(), shape);
        let mut diffusion = normal(Purpose::DiffusionNoise, &self.latent);
        if self.offset_noise > 0.0 {
            diffusion += normal(Purpose::OffsetNoise, &[self.latent[0], 1, 1]) * self.offset_noise;
        }
        let dropped = (self.slot_dropout > 0.0)
            .then(|| Tensor::from_slice(&draws.chances(step, Purpose::SlotDropout, rows.clone(), self.slot_dropout)));
        StepNoise {
            timesteps: draws.integers(step, Purpose::Timesteps, rows.clone(), self.timesteps),
            posterior: normal(Purpose::PosteriorNoise, &self.latent),
            diffusion,
            slots: normal(Purpose::InitialSlots, &self.slots),
            dropped,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use common::config::load;

    fn noise(overrides: &[&str], detour: u64) -> StepNoise {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = load::from_str(include_str!("tests.toml"), "tests.toml", &overrides).unwrap();
        NoiseRecipe::new(&config).draw(2, &(0..500), detour)
    }

    #[test]
    fn offset_noise_is_constant_over_a_latent_and_has_its_strength() {
        let offset = noise(&["diffusion.offset_noise=0.1"], 0).diffusion - noise(&[], 0).diffusion;
        let within = offset.flatten(2, 3).std_dim([2].as_slice(), true, false).max().double_value(&[]);
        let deviation = offset.select(3, 0).select(2, 0).std(true).double_value(&[]);
        // 1000 numbers: the standard error is 0.002.
        assert!(within < 1e-6 && (deviation - 0.1).abs() < 0.01, "{within} within a latent, {deviation} among them");
    }

    #[test]
    fn a_detour_is_other_noise() {
        let (straight, detour) = (noise(&[], 0), noise(&[], 1));
        assert_ne!(straight.diffusion, detour.diffusion);
        assert_ne!(straight.timesteps, detour.timesteps);
        assert_eq!(detour.slots, noise(&[], 1).slots);
    }
}
