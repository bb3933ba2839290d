//! The model at work: slots of images, their segmentation, and pictures decoded from slots.

use crate::data::to_unit_range;
use crate::diffusion::guidance::guided;
use crate::diffusion::{NoiseSchedule, ddim, ddpm, dpm_solver};
use crate::model::{Autoencoder, LatentSlotDiffusion, Sizes, SlotOutput};
use crate::training::random::{Draws, Purpose};
use common::config::{Config, EvaluateConfig, Sampler};
use std::ops::Range;
use tch::{Device, Kind, TchError, Tensor};

/// The step under which initial slots and sampling noise are drawn: no training step, so that no image meets the noise it was trained with.
/// Like all draws they depend on the row alone, whatever the batch or the number of workers.
pub(crate) const INFERENCE: u64 = u64::MAX;

/// Slots of images u8 [B, H, W, 3], which are the images number `rows` of their split.
pub fn find_slots(model: &LatentSlotDiffusion, draws: Draws, images: &Tensor, rows: Range<usize>, device: Device) -> SlotOutput {
    let _guard = tch::no_grad_guard();
    let features = model.backbone.forward(&to_unit_range(&images.to_device(device)));
    let noise = draws.normal(INFERENCE, Purpose::InitialSlots, rows, &model.slot_attention.slots_shape());
    model.slot_attention.forward(&features, &model.slot_attention.initial_slots(&noise.to_device(device)))
}

/// Attention [B, K, h, w] -> attention [B, K, side, side], bilinearly.
pub fn enlarge(attention: &Tensor, side: usize) -> Tensor {
    attention.upsample_bilinear2d([side as i64, side as i64], false, None, None)
}

/// Attention [B, K, side, side] -> the slot of every pixel, one label map per image.
pub fn segment(attention: &Tensor) -> Result<Vec<Vec<u8>>, TchError> {
    attention.argmax(1, false).to_kind(Kind::Uint8).unbind(0).iter().map(to_vec).collect()
}

/// The values of a tensor of any shape, row by row.
pub fn to_vec<T>(tensor: &Tensor) -> Result<Vec<T>, TchError>
where
    Vec<T>: TryFrom<Tensor, Error = TchError>,
{
    Vec::try_from(tensor.flatten(0, -1).contiguous())
}

/// Turns slots into pictures: reverse diffusion of the latent, then the autoencoder's decoder.
pub struct Decoder {
    autoencoder: Autoencoder,
    schedule: NoiseSchedule,
    config: EvaluateConfig,
    draws: Draws,
    /// Latents were multiplied by this before diffusion.
    latent_factor: f64,
    /// [C, h, w].
    latent_shape: [i64; 3],
    device: Device,
}

impl Decoder {
    /// The decoder that a configuration describes.
    pub fn new(config: &Config, autoencoder: Autoencoder, device: Device) -> Self {
        let sizes = Sizes::of(config);
        Self {
            schedule: NoiseSchedule::new(&config.diffusion, device),
            config: config.evaluate.clone(),
            draws: Draws::new(config.run.seed),
            latent_factor: autoencoder.scaling_factor * config.diffusion.latent_scale,
            latent_shape: [sizes.latent_channels, sizes.latent_side, sizes.latent_side],
            autoencoder,
            device,
        }
    }

    /// Conditioning [B, K, D] -> images u8 [B, H, W, 3] on the CPU. The noise is that of pictures number `rows`.
    pub fn decode(&self, model: &LatentSlotDiffusion, conditioning: &Tensor, rows: Range<usize>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let draw = |step| {
            let noise = self.draws.normal(step, Purpose::SamplingNoise, rows.clone(), &self.latent_shape);
            noise.to_device(self.device)
        };
        let predict = |z_t: &Tensor, t: usize| {
            let timesteps = Tensor::full([z_t.size()[0]], t as i64, (Kind::Int64, self.device));
            guided(self.config.guidance, conditioning, |conditioning| model.unet.forward(z_t, &timesteps, conditioning))
        };
        let (start, steps) = (draw(INFERENCE), self.config.sampling_steps);
        let z = match self.config.sampler {
            Sampler::Ddim => ddim::sample(&self.schedule, &start, steps, predict),
            Sampler::DpmSolver => dpm_solver::sample(&self.schedule, &start, steps, predict),
            Sampler::Ddpm => ddpm::sample(&self.schedule, &start, predict, |t| draw(t as u64)),
        };
        let images = self.autoencoder.decode(&(z / self.latent_factor));
        ((images + 1.0) * 127.5).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).permute([0, 2, 3, 1]).to_device(Device::Cpu)
    }
}
