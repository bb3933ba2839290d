//! Deterministic sampling in few steps (Song et al. 2021, eta = 0).

use tch::Tensor;

use super::NoiseSchedule;

/// Denoises `noise` [B, C, h, w] in `steps` evenly spaced timesteps; `predict(z_t, t)` is the network.
pub fn sample(schedule: &NoiseSchedule, noise: &Tensor, steps: usize, mut predict: impl FnMut(&Tensor, usize) -> Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    let timesteps = spaced(schedule.timesteps(), steps);
    let mut z_t = noise.shallow_clone();
    for (i, &t) in timesteps.iter().enumerate() {
        let (z, noise) = schedule.split(&z_t, &predict(&z_t, t), t);
        let next = schedule.alpha_bar(timesteps.get(i + 1).copied());
        z_t = z * next.sqrt() + noise * (1.0 - next).sqrt();
    }
    z_t
}

/// `steps` of `total` timesteps, evenly spaced, from the noisiest, which is included, downwards.
fn spaced(total: usize, steps: usize) -> Vec<usize> {
    let steps = steps.clamp(1, total);
    (0..steps).map(|i| total - 1 - i * total / steps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::DiffusionConfig;
    use tch::{Device, Kind};

    #[test]
    fn timesteps_fall_from_the_noisiest() {
        assert_eq!(spaced(1000, 4), [999, 749, 499, 249]);
        assert_eq!(spaced(3, 10), [2, 1, 0]);
    }

    /// For data that is one point, the best prediction is known, and every sample must end in that point.
    #[test]
    fn samples_of_a_point_end_in_it() {
        let schedule = NoiseSchedule::new(&DiffusionConfig::default(), Device::Cpu);
        let point = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.0]).view([1, 4, 1, 1]);
        let noise = Tensor::randn([2, 4, 1, 1], (Kind::Float, Device::Cpu));
        let found = sample(&schedule, &noise, 10, |z_t, t| {
            let alpha_bar = schedule.alpha_bar(Some(t));
            (z_t - &point * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt()
        });
        assert!(found.allclose(&point.expand([2, 4, 1, 1], false), 0.0, 1e-4, false), "{found:?}");
    }
}
