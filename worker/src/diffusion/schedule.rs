//! The noise schedule, and the algebra between latent, noise, noisy latent and what the network predicts.

use common::config::{Betas, DiffusionConfig, Prediction};
use std::f64::consts::FRAC_PI_2;
use tch::{Device, Kind, Reduction, Tensor};

/// How much of the latent is left at each timestep: z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) noise (Ho et al. 2020, eq. 4).
#[derive(Debug)]
pub struct NoiseSchedule {
    alpha_bar: Vec<f64>,
    /// sqrt(alpha_bar) [T], f32.
    signal: Tensor,
    /// sqrt(1 - alpha_bar) [T], f32.
    noise: Tensor,
    /// Weight of every timestep in the loss [T], f32; none when all weigh alike.
    weights: Option<Tensor>,
    prediction: Prediction,
}

impl NoiseSchedule {
    /// The configured schedule, computed in f64.
    pub fn new(config: &DiffusionConfig, device: Device) -> Self {
        let alpha_bar = alpha_bar(config);
        let on_device = |f: &dyn Fn(f64) -> f64| {
            let values: Vec<f32> = alpha_bar.iter().map(|&value| f(value) as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        let (signal, noise) = (on_device(&f64::sqrt), on_device(&|value| (1.0 - value).sqrt()));
        let (gamma, prediction) = (config.snr_gamma, config.prediction);
        let weights = (gamma > 0.0).then(|| on_device(&|value| min_snr(value / (1.0 - value), gamma, prediction)));
        Self { alpha_bar, signal, noise, weights, prediction }
    }

    /// Number of timesteps T.
    pub fn timesteps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// Share of the signal's variance left at timestep `t`; before the first timestep (`None`) all of it.
    pub fn alpha_bar(&self, t: Option<usize>) -> f64 {
        t.map_or(1.0, |t| self.alpha_bar[t])
    }

    /// Latents z and noise [B, C, h, w], timesteps i64 [B] -> noisy latents z_t [B, C, h, w].
    pub fn add_noise(&self, z: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal_rate, noise_rate) = self.rates(timesteps);
        signal_rate * z + noise_rate * noise
    }

    /// What the network should predict, given z, noise [B, C, h, w] and timesteps i64 [B].
    pub fn target(&self, z: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        match self.prediction {
            Prediction::Epsilon => noise.shallow_clone(),
            Prediction::V => {
                let (signal_rate, noise_rate) = self.rates(timesteps);
                signal_rate * noise - noise_rate * z
            }
        }
    }

    /// Mean squared error of a prediction of `target`, both [B, C, h, w], at timesteps i64 [B], weighted by `diffusion.snr_gamma`.
    pub fn loss(&self, prediction: &Tensor, target: &Tensor, timesteps: &Tensor) -> Tensor {
        match &self.weights {
            None => prediction.mse_loss(target, Reduction::Mean),
            Some(weights) => (prediction.mse_loss(target, Reduction::None) * per_image(weights, timesteps)).mean(None::<Kind>),
        }
    }

    /// Splits z_t at timestep `t` by the network's prediction into the latent and the noise: (z, noise), each [B, C, h, w].
    pub fn split(&self, z_t: &Tensor, prediction: &Tensor, t: usize) -> (Tensor, Tensor) {
        let (signal, noise) = (self.alpha_bar[t].sqrt(), (1.0 - self.alpha_bar[t]).sqrt());
        match self.prediction {
            Prediction::Epsilon => ((z_t - prediction * noise) / signal, prediction.shallow_clone()),
            Prediction::V => (z_t * signal - prediction * noise, prediction * signal + z_t * noise),
        }
    }

    /// Factors [B, 1, 1, 1] of signal and noise.
    fn rates(&self, timesteps: &Tensor) -> (Tensor, Tensor) {
        (per_image(&self.signal, timesteps), per_image(&self.noise, timesteps))
    }
}

/// The entries of a table [T] at timesteps i64 [B], as factors [B, 1, 1, 1].
fn per_image(table: &Tensor, timesteps: &Tensor) -> Tensor {
    table.index_select(0, timesteps).view([-1, 1, 1, 1])
}

/// Weight of a timestep with signal-to-noise ratio `snr`, so that the squared error of the latent behind the prediction weighs
/// min(snr, gamma) (Hang et al. 2023, section 3.4).
fn min_snr(snr: f64, gamma: f64, prediction: Prediction) -> f64 {
    match prediction {
        Prediction::Epsilon => snr.min(gamma) / snr,
        Prediction::V => snr.min(gamma) / (snr + 1.0),
    }
}

/// Running products of 1 - beta.
fn alpha_bar(config: &DiffusionConfig) -> Vec<f64> {
    let DiffusionConfig { timesteps, beta_start, beta_end, betas, .. } = *config;
    let line = |from: f64, to: f64, i: usize| from + (to - from) * i as f64 / (timesteps.max(2) - 1) as f64;
    let cosine = |i: usize| ((i as f64 / timesteps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    let beta = |i| match betas {
        Betas::Linear => line(beta_start, beta_end, i),
        Betas::ScaledLinear => line(beta_start.sqrt(), beta_end.sqrt(), i).powi(2),
        Betas::Cosine => (1.0 - cosine(i + 1) / cosine(i)).min(0.999),
    };
    let mut product = 1.0;
    (0..timesteps)
        .map(|i| {
            product *= 1.0 - beta(i);
            product
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_bar_agrees_with_the_reference() {
        let schedule = NoiseSchedule::new(&DiffusionConfig::default(), Device::Cpu);
        let checks = [(0, 0.99914998), (249, 0.57086617), (499, 0.16181214), (749, 0.02272880), (999, 0.00157896)];
        for (t, expected) in checks {
            let found = schedule.alpha_bar(Some(t));
            assert!((found - expected).abs() < 1e-6, "timestep {t}: {found} instead of {expected}");
        }
    }

    /// Whatever the network predicts, the loss is the squared error of the latent times min(snr, gamma).
    #[test]
    fn errors_of_the_latent_weigh_no_more_than_gamma() {
        let options = (Kind::Double, Device::Cpu);
        for prediction in [Prediction::Epsilon, Prediction::V] {
            let config = DiffusionConfig { prediction, snr_gamma: 5.0, ..Default::default() };
            let schedule = NoiseSchedule::new(&config, Device::Cpu);
            let (z_t, predicted) = (Tensor::randn([1, 4, 8, 8], options), Tensor::randn([1, 4, 8, 8], options));
            let target = Tensor::randn([1, 4, 8, 8], options);
            for t in [0, 100, 999] {
                let alpha_bar = schedule.alpha_bar(Some(t));
                let latent = |prediction: &Tensor| schedule.split(&z_t, prediction, t).0;
                let expected = latent(&predicted).mse_loss(&latent(&target), Reduction::Mean).double_value(&[])
                    * (alpha_bar / (1.0 - alpha_bar)).min(5.0);
                let found = schedule.loss(&predicted, &target, &Tensor::from_slice(&[t as i64])).double_value(&[]);
                assert!((found / expected - 1.0).abs() < 1e-5, "{prediction:?}, timestep {t}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_perfect_prediction_splits_into_latent_and_noise() {
        let options = (tch::Kind::Float, Device::Cpu);
        for prediction in [Prediction::Epsilon, Prediction::V] {
            let schedule = NoiseSchedule::new(&DiffusionConfig { prediction, ..Default::default() }, Device::Cpu);
            let (z, noise) = (Tensor::randn([3, 4, 8, 8], options), Tensor::randn([3, 4, 8, 8], options));
            for t in [0, 500, 999] {
                let timesteps = Tensor::full([3], t, (tch::Kind::Int64, Device::Cpu));
                let z_t = schedule.add_noise(&z, &noise, &timesteps);
                let (z_found, noise_found) = schedule.split(&z_t, &schedule.target(&z, &noise, &timesteps), t as usize);
                assert!(z_found.allclose(&z, 0.0, 1e-4, false), "{prediction:?}, timestep {t}");
                assert!(noise_found.allclose(&noise, 0.0, 1e-4, false), "{prediction:?}, timestep {t}");
            }
        }
    }
}
