//! Every random number of training: a function of (seed, step, purpose, row of the global batch), and of nothing else.
//!
//! Each row of the global batch has a stream of its own, so a worker draws exactly its slice, any number of workers see the same
//! numbers, a resumed run sees the numbers it would have seen, and no generator state is ever saved.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// What a draw is for. Different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Timesteps of the diffusion.
    Timesteps = 1,
    /// Noise added to the latents.
    DiffusionNoise = 2,
    /// Noise of the posterior sample of the autoencoder.
    PosteriorNoise = 3,
    /// Noise of the initial slots.
    InitialSlots = 4,
    /// Noise from which pictures are sampled.
    SamplingNoise = 5,
    /// Noise that is constant over an image's latent.
    OffsetNoise = 6,
    /// Which images are denoised without their slots.
    SlotDropout = 7,
    /// Which images are mirrored.
    Flip = 8,
}

/// The draws of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    detour: u64,
}

impl Draws {
    /// The draws of a run with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, detour: 0 }
    }

    /// Other draws under the same seed: number `detour`, 0 being these.
    #[must_use]
    pub fn detour(self, detour: u64) -> Self {
        Self { detour, ..self }
    }

    /// Standard normal numbers, f32 `[rows, shape..]` on the CPU, for `rows` of the global batch of `step` (Box and Muller, 1958).
    pub fn normal(&self, step: u64, purpose: Purpose, rows: impl IntoIterator<Item = usize>, shape: &[i64]) -> Tensor {
        // Row by row: tensors of this size do not call for libtorch's threads, which are the training step's.
        let rows: Vec<Tensor> = rows.into_iter().map(|row| normal_row(&mut self.stream(step, purpose, row), shape)).collect();
        if rows.is_empty() {
            let size: Vec<i64> = std::iter::once(0).chain(shape.iter().copied()).collect();
            return Tensor::zeros(size, (Kind::Float, Device::Cpu));
        }
        Tensor::stack(&rows, 0)
    }

    /// Whole numbers in `0..below`, i64 `[rows]` on the CPU, for `rows` of the global batch of `step`.
    pub fn integers(&self, step: u64, purpose: Purpose, rows: Range<usize>, below: usize) -> Tensor {
        // The bias of taking the high half of a 64-bit product is below 2^-40 for any `below` under 2^24.
        let draw = |row| ((u128::from(self.stream(step, purpose, row).next_u64()) * below as u128) >> 64) as i64;
        Tensor::from_slice(&rows.map(draw).collect::<Vec<_>>())
    }

    /// Whether something of this `probability` happens to each of `rows` of the global batch of `step`.
    pub fn chances(&self, step: u64, purpose: Purpose, rows: Range<usize>, probability: f64) -> Vec<bool> {
        rows.map(|row| (self.stream(step, purpose, row).next_u64() as f64) < probability * 2_f64.powi(64)).collect()
    }

    fn stream(&self, step: u64, purpose: Purpose, row: usize) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&step.to_le_bytes());
        key[16..24].copy_from_slice(&(purpose as u64 + (self.detour << 8)).to_le_bytes());
        key[24..].copy_from_slice(&(row as u64).to_le_bytes());
        ChaCha8Rng::from_seed(key)
    }
}

/// Standard normal numbers of the given shape.
fn normal_row(stream: &mut ChaCha8Rng, shape: &[i64]) -> Tensor {
    let length = shape.iter().product::<i64>();
    let pairs = (length as usize).div_ceil(2);
    let uniforms: Vec<f32> = (0..2 * pairs).map(|_| unit(stream.next_u32())).collect();
    let uniforms = Tensor::from_slice(&uniforms).view([2, pairs as i64]);
    let radius = (uniforms.get(0).log() * -2.0).sqrt();
    let angle = uniforms.get(1) * std::f64::consts::TAU;
    Tensor::cat(&[&radius * angle.cos(), &radius * angle.sin()], 0).narrow(0, 0, length).view(shape)
}

/// A number in (0, 1] with 24 random bits, exact in f32.
fn unit(bits: u32) -> f32 {
    ((bits >> 8) + 1) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Mean, variance and the share beyond two standard deviations.
    fn moments(sample: &Tensor) -> (f64, f64, f64) {
        let sample = sample.to_kind(Kind::Double);
        let beyond = sample.abs().gt(2.0).to_kind(Kind::Double).mean(Kind::Double);
        (sample.mean(Kind::Double).double_value(&[]), sample.var(false).double_value(&[]), beyond.double_value(&[]))
    }

    #[test]
    fn normal_numbers_are_normal_and_independent() {
        let draws = Draws::new(7);
        let sample = draws.normal(3, Purpose::DiffusionNoise, 0..64, &[2, 33, 31]);
        assert_eq!((sample.size(), sample.kind()), (vec![64, 2, 33, 31], Kind::Float));
        // 131 k numbers: the standard errors are 0.0028, 0.0039 and 0.0006.
        let (mean, variance, beyond) = moments(&sample);
        assert!(
            mean.abs() < 0.012 && (variance - 1.0).abs() < 0.016 && (beyond - 0.0455).abs() < 0.0025,
            "{mean} {variance} {beyond}"
        );
        let other = draws.normal(3, Purpose::PosteriorNoise, 0..64, &[2, 33, 31]);
        let (correlation, _, _) = moments(&(&sample * &other));
        let (between_rows, _, _) = moments(&(sample.narrow(0, 0, 32) * sample.narrow(0, 32, 32)));
        assert!(correlation.abs() < 0.012 && between_rows.abs() < 0.016, "{correlation} {between_rows}");
    }

    #[test]
    fn integers_cover_their_range_evenly() {
        let counts = Draws::new(1).integers(0, Purpose::Timesteps, 0..20_000, 10).bincount(None::<Tensor>, 10);
        assert_eq!(counts.size(), vec![10]);
        // 2000 each, with a standard deviation of 42.
        assert!((counts - 2000).abs().max().int64_value(&[]) < 200);
    }

    #[test]
    fn chances_are_as_likely_as_they_should_be() {
        let draws = Draws::new(1);
        let count = |probability| {
            let chances = draws.chances(0, Purpose::SlotDropout, 0..20_000, probability);
            chances.into_iter().filter(|happens| *happens).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 20_000));
        // 2000, with a standard deviation of 42.
        assert!(count(0.1).abs_diff(2000) < 200);
    }

    proptest! {
        #[test]
        fn workers_draw_slices_of_one_global_batch(seed: u64, step: u64, cut in 0_usize..=6) {
            let draws = Draws::new(seed);
            let normal = |rows| draws.normal(step, Purpose::InitialSlots, rows, &[5]);
            prop_assert_eq!(Tensor::cat(&[normal(0..cut), normal(cut..6)], 0), normal(0..6));
            let integers = |rows| draws.integers(step, Purpose::Timesteps, rows, 1000);
            prop_assert_eq!(Tensor::cat(&[integers(0..cut), integers(cut..6)], 0), integers(0..6));
            prop_assert_ne!(normal(0..6), draws.normal(step.wrapping_add(1), Purpose::InitialSlots, 0..6, &[5]));
            prop_assert_ne!(normal(0..6), Draws::new(seed.wrapping_add(1)).normal(step, Purpose::InitialSlots, 0..6, &[5]));
        }
    }
}
