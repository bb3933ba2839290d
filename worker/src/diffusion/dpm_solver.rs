//! DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2): the reference's sampler, deterministic in few steps.

use tch::Tensor;

use super::{NoiseSchedule, timesteps};

/// A noise level as the solver sees it.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// Factor of the latent, sqrt(alpha_bar).
    alpha: f64,
    /// Factor of the noise, sqrt(1 - alpha_bar).
    sigma: f64,
}

impl Level {
    /// The level of timestep `t`; without noise for `None`.
    fn at(schedule: &NoiseSchedule, t: Option<usize>) -> Self {
        let alpha_bar = schedule.alpha_bar(t);
        Self { alpha: alpha_bar.sqrt(), sigma: (1.0 - alpha_bar).sqrt() }
    }

    /// Half the logarithm of the signal-to-noise ratio, the solver's time.
    fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }
}

/// Denoises `noise` [B, C, h, w] in `steps` timesteps; `predict(z_t, t)` is the network.
///
/// Timesteps and latents are those of diffusers' `DPMSolverMultistepScheduler` (`dpmsolver++`, `solver_order = 2`, `midpoint`,
/// `final_sigmas_type = "zero"`) under the reference's configuration. The first step has no past and the last one ends without noise:
/// both are of first order, whatever the number of steps.
pub fn sample(schedule: &NoiseSchedule, noise: &Tensor, steps: usize, mut predict: impl FnMut(&Tensor, usize) -> Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    let timesteps = timesteps::dpm_solver(schedule.timesteps(), steps);
    let mut z_t = noise.shallow_clone();
    // The latent that the step before has predicted, and where.
    let mut past: Option<(Tensor, Level)> = None;
    for (i, &t) in timesteps.iter().enumerate() {
        let (z, _) = schedule.split(&z_t, &predict(&z_t, t), t);
        let next_timestep = timesteps.get(i + 1).copied();
        let (here, next) = (Level::at(schedule, Some(t)), Level::at(schedule, next_timestep));
        let slope = past.filter(|_| next_timestep.is_some()).map(|(earlier, before)| {
            let ratio = (here.lambda() - before.lambda()) / (next.lambda() - here.lambda());
            (&z - earlier) * (0.5 / ratio)
        });
        let target = slope.map_or_else(|| z.shallow_clone(), |slope| &z + slope);
        // exp(-h), with h the distance in lambda; 0 where the noise ends.
        let decay = (next.sigma / next.alpha) * (here.alpha / here.sigma);
        z_t = z_t * (next.sigma / here.sigma) + target * (next.alpha * (1.0 - decay));
        past = Some((z, here));
    }
    z_t
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::DiffusionConfig;
    use tch::{Device, Kind};

    /// For Gaussian data the best prediction is linear in z_t, and the exact solution keeps its place among the quantiles. On the way to
    /// a timestep, a quarter of the stride must leave a sixteenth of the error; a method of first order leaves a quarter.
    #[test]
    fn the_error_falls_with_the_square_of_the_stride() {
        let schedule = NoiseSchedule::new(&DiffusionConfig::default(), Device::Cpu);
        let noise = Tensor::ones([1, 1, 1, 1], (Kind::Double, Device::Cpu));
        let deviation = |t: usize| {
            let alpha_bar = schedule.alpha_bar(Some(t));
            (alpha_bar * 0.25 + 1.0 - alpha_bar).sqrt()
        };
        let error = |steps: usize| {
            let mut quantiles = Vec::new();
            let _ = sample(&schedule, &noise, steps, |z_t, t| {
                if t >= 201 {
                    quantiles.push(z_t.double_value(&[0, 0, 0, 0]) / deviation(t));
                }
                z_t * ((1.0 - schedule.alpha_bar(Some(t))).sqrt() / deviation(t).powi(2))
            });
            (quantiles[quantiles.len() - 1] / quantiles[0] - 1.0).abs()
        };
        // Strides of 40 and 10 timesteps, both of which lead to timestep 201.
        let (coarse, fine) = (error(24), error(99));
        assert!(coarse < 2e-3 && fine < coarse / 12.0, "{coarse} with 24 steps, {fine} with 99");
    }
}
