//! Deterministic sampling in few steps (Song et al. 2021, eta = 0).

use tch::Tensor;

use super::{NoiseSchedule, timesteps};

/// Denoises `noise` [B, C, h, w] in `steps` timesteps; `predict(z_t, t)` is the network.
///
/// Timesteps and latents are those of diffusers' `DDIMScheduler` under the reference's configuration. Part of that is
/// `set_alpha_to_one = false`: the last step leads to the first noise level, which is next to none, and not to none at all.
pub fn sample(schedule: &NoiseSchedule, noise: &Tensor, steps: usize, mut predict: impl FnMut(&Tensor, usize) -> Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    let timesteps = timesteps::ddim(schedule.timesteps(), steps);
    let mut z_t = noise.shallow_clone();
    for (i, &t) in timesteps.iter().enumerate() {
        let (z, noise) = schedule.split(&z_t, &predict(&z_t, t), t);
        let next = schedule.alpha_bar(Some(timesteps.get(i + 1).copied().unwrap_or(0)));
        z_t = z * next.sqrt() + noise * (1.0 - next).sqrt();
    }
    z_t
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::DiffusionConfig;
    use tch::{Device, Kind};

    /// For data that is one point, the best prediction is known: it finds the same noise at every timestep, and the sample must be that
    /// point under what the first noise level has of that noise.
    #[test]
    fn samples_of_a_point_end_in_it() {
        let schedule = NoiseSchedule::new(&DiffusionConfig::default(), Device::Cpu);
        let point = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.0]).view([1, 4, 1, 1]);
        let start = Tensor::randn([2, 4, 1, 1], (Kind::Float, Device::Cpu));
        let noise_in = |z_t: &Tensor, t: usize| {
            let alpha_bar = schedule.alpha_bar(Some(t));
            (z_t - &point * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt()
        };
        let found = sample(&schedule, &start, 10, noise_in);
        let last = schedule.alpha_bar(Some(0));
        let expected = &point * last.sqrt() + noise_in(&start, 901) * (1.0 - last).sqrt();
        assert!(found.allclose(&expected, 0.0, 1e-4, false), "{found:?}");
    }
}
