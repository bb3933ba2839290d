//! Ancestral sampling over all timesteps (Ho et al. 2020, algorithm 2).

use tch::Tensor;

use super::NoiseSchedule;

/// Denoises `noise` [B, C, h, w] through every timestep; `predict(z_t, t)` is the network, `fresh(t)` draws standard normal noise of
/// the same shape for the step from `t` to `t - 1`.
pub fn sample(
    schedule: &NoiseSchedule,
    noise: &Tensor,
    mut predict: impl FnMut(&Tensor, usize) -> Tensor,
    mut fresh: impl FnMut(usize) -> Tensor,
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let mut z_t = noise.shallow_clone();
    for t in (0..schedule.timesteps()).rev() {
        let (z, _) = schedule.split(&z_t, &predict(&z_t, t), t);
        let (here, next) = (schedule.alpha_bar(Some(t)), schedule.alpha_bar(t.checked_sub(1)));
        let alpha = here / next;
        // The mean of q(z_{t-1} | z_t, z), and its variance (eq. 6 and 7).
        let mean = z * (next.sqrt() * (1.0 - alpha) / (1.0 - here)) + &z_t * (alpha.sqrt() * (1.0 - next) / (1.0 - here));
        let variance = (1.0 - next) / (1.0 - here) * (1.0 - alpha);
        z_t = if t == 0 { mean } else { mean + fresh(t) * variance.sqrt() };
    }
    z_t
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::random::{Draws, Purpose};
    use common::config::DiffusionConfig;
    use tch::Device;

    /// For Gaussian data the best prediction is linear in z_t, and samples must have the data's variance.
    #[test]
    fn samples_of_a_gaussian_have_its_deviation() {
        // Not the library's generator, which other tests set back meanwhile.
        let draws = Draws::new(1);
        let noise = |step| draws.normal(step, Purpose::SamplingNoise, 0..20_000, &[1, 1, 1]);
        let config = DiffusionConfig { timesteps: 200, beta_end: 0.06, ..Default::default() };
        let schedule = NoiseSchedule::new(&config, Device::Cpu);
        let variance = 0.25;
        let predict = |z_t: &Tensor, t: usize| {
            let alpha_bar = schedule.alpha_bar(Some(t));
            z_t * ((1.0 - alpha_bar).sqrt() / (alpha_bar * variance + 1.0 - alpha_bar))
        };
        let found = sample(&schedule, &noise(u64::MAX), predict, |t| noise(t as u64));
        let deviation = found.std(true).double_value(&[]);
        assert!((deviation - 0.5).abs() < 0.02, "deviation {deviation} instead of 0.5");
    }
}
