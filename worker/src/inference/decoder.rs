//! From slots to pictures: reverse diffusion of the latent, then the autoencoder's decoder.
//!
//! On a CPU with several threads each of them paints some of the pictures, from their first step to their last. Threads that share single
//! operations wait for each other at the end of every one of them, and those of a small network are short.

use super::INFERENCE;
use crate::diffusion::guidance::Guidance;
use crate::diffusion::{NoiseSchedule, ddim, ddpm, dpm_solver};
use crate::model::{Autoencoder, LatentSlotDiffusion, Sizes, without_gradients};
use crate::training::random::{Draws, Purpose};
use common::config::{AutoencoderConfig, Config, DiffusionConfig, EvaluateConfig, ModelConfig, Sampler};
use tch::{Device, Kind, Tensor};

/// Turns slots into pictures.
pub struct Decoder {
    painter: Painter,
    model: ModelConfig,
    sizes: Sizes,
    autoencoder: AutoencoderConfig,
    diffusion: DiffusionConfig,
    draws: Draws,
    device: Device,
}

impl Decoder {
    /// The decoder that a configuration describes.
    pub fn new(config: &Config, autoencoder: Autoencoder, device: Device) -> Self {
        let painter = Painter {
            schedule: NoiseSchedule::new(&config.diffusion, device),
            config: config.evaluate.clone(),
            latent_factor: autoencoder.scaling_factor * config.diffusion.latent_scale,
            autoencoder,
        };
        Self {
            painter,
            model: config.model.clone(),
            sizes: Sizes::of(config),
            autoencoder: config.autoencoder.clone(),
            diffusion: config.diffusion.clone(),
            draws: Draws::new(config.run.seed),
            device,
        }
    }

    /// Conditioning [B, K, D] -> images u8 [B, H, W, 3] on the CPU. The noise is that of pictures number `rows`.
    pub fn decode(&self, model: &LatentSlotDiffusion, conditioning: &Tensor, rows: impl IntoIterator<Item = usize>) -> Tensor {
        let rows: Vec<usize> = rows.into_iter().collect();
        let images = self.in_parts(model, conditioning, &noise(self.draws, self.sizes, INFERENCE, &rows), &rows);
        ((images + 1.0) * 127.5).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([0, 2, 3, 1]).to_device(Device::Cpu)
    }

    /// Conditioning [B, K, D] and the noise to begin with, f32 [B, C, h, w] -> images f32 [B, 3, H, W], nominally in [-1, 1]. What noise the
    /// sampler adds on the way is that of the first B pictures.
    pub fn paint(&self, model: &LatentSlotDiffusion, conditioning: &Tensor, noise: &Tensor) -> Tensor {
        let rows: Vec<usize> = (0..noise.size()[0].unsigned_abs() as usize).collect();
        self.in_parts(model, conditioning, noise, &rows)
    }

    /// Shares the pictures out among the threads.
    fn in_parts(&self, model: &LatentSlotDiffusion, conditioning: &Tensor, start: &Tensor, rows: &[usize]) -> Tensor {
        let (draws, sizes, device) = (self.draws, self.sizes, self.device);
        let fresh = move |step: usize, rows: &[usize]| noise(draws, sizes, step as u64, rows).to_device(device);
        let threads = tch::get_num_threads().max(1) as usize;
        if device != Device::Cpu || threads == 1 || rows.len() < 2 {
            return self.painter.paint(model, conditioning, &start.to_device(device), |step| fresh(step, rows));
        }
        let length = rows.len().div_ceil(threads);
        let parts = rows.chunks(length).enumerate().map(|(index, rows)| {
            let own = |whole: &Tensor| whole.narrow(0, (index * length) as i64, rows.len() as i64);
            Part {
                painter: self.painter.twin(&self.autoencoder, &self.diffusion),
                model: model.twin(&self.model, sizes, device),
                conditioning: own(conditioning),
                start: own(start),
                rows,
            }
        });
        let parts: Vec<Part<'_>> = parts.collect();
        let painted: Vec<Tensor> = std::thread::scope(|scope| {
            let paint = |part: Part<'_>| {
                tch::set_num_threads(1);
                part.painter.paint(&part.model, &part.conditioning, &part.start, |step| fresh(step, part.rows))
            };
            let painters: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || paint(part))).collect();
            painters.into_iter().map(|painter| painter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        // Threads that begin later take their number from whoever has set it last.
        tch::set_num_threads(threads as i32);
        Tensor::cat(&painted, 0)
    }
}

/// Noise f32 [B, C, h, w] of a step, on the CPU.
fn noise(draws: Draws, sizes: Sizes, step: u64, rows: &[usize]) -> Tensor {
    let shape = [sizes.latent_channels, sizes.latent_side, sizes.latent_side];
    draws.normal(step, Purpose::SamplingNoise, rows.iter().copied(), &shape)
}

/// What one of the threads paints, and with what.
struct Part<'a> {
    painter: Painter,
    model: LatentSlotDiffusion,
    conditioning: Tensor,
    start: Tensor,
    rows: &'a [usize],
}

/// What paints pictures in one thread.
struct Painter {
    autoencoder: Autoencoder,
    schedule: NoiseSchedule,
    config: EvaluateConfig,
    /// Latents were multiplied by this before diffusion.
    latent_factor: f64,
}

impl Painter {
    /// The same for another thread.
    fn twin(&self, autoencoder: &AutoencoderConfig, diffusion: &DiffusionConfig) -> Self {
        Self {
            autoencoder: self.autoencoder.twin(autoencoder, Device::Cpu),
            schedule: NoiseSchedule::new(diffusion, Device::Cpu),
            config: self.config.clone(),
            latent_factor: self.latent_factor,
        }
    }

    /// Conditioning [B, K, D] and the noise to start with, f32 [B, C, h, w] -> images f32 [B, 3, H, W]; `fresh(t)` is the noise that is added at
    /// timestep `t`.
    fn paint(&self, model: &LatentSlotDiffusion, conditioning: &Tensor, start: &Tensor, fresh: impl Fn(usize) -> Tensor) -> Tensor {
        let guidance = Guidance::new(self.config.guidance, conditioning);
        let predict = |z_t: &Tensor, t: usize| guidance.predict(z_t, |z_t, conditioning| model.unet.denoise(z_t, t, conditioning));
        let steps = self.config.sampling_steps;
        without_gradients(|| {
            let z = match self.config.sampler {
                Sampler::Ddim => ddim::sample(&self.schedule, start, steps, predict),
                Sampler::DpmSolver => dpm_solver::sample(&self.schedule, start, steps, predict),
                Sampler::Ddpm => ddpm::sample(&self.schedule, start, predict, fresh),
            };
            self.autoencoder.decode(&(z / self.latent_factor))
        })
    }
}
