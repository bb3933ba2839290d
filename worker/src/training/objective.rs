//! The objective of Latent Slot Diffusion: slots of the image condition the denoiser of the image's latent, and everything that is
//! trained learns from the mean squared error of the prediction alone (paper, section 3).
//!
//! What departs from that, `diffusion.snr_gamma`, `diffusion.offset_noise` and `train.slot_dropout`, is off unless the configuration
//! asks for it.

use crate::data::{Batch, to_unit_range};
use crate::diffusion::NoiseSchedule;
use crate::diffusion::guidance::drop_slots;
use crate::model::{Autoencoder, LatentSlotDiffusion, Mixed};
use common::config::Config;
use tch::{Device, Kind, Tensor};

/// What turns a batch into a loss.
pub struct Objective {
    schedule: NoiseSchedule,
    /// Latents are multiplied by this: the autoencoder's scaling factor and `diffusion.latent_scale`.
    latent_factor: f64,
    mixed: Mixed,
}

impl Objective {
    /// The objective that a configuration describes, for latents with the given scaling factor.
    pub fn new(config: &Config, scaling_factor: f64, device: Device) -> Self {
        Self {
            schedule: NoiseSchedule::new(&config.diffusion, device),
            latent_factor: scaling_factor * config.diffusion.latent_scale,
            mixed: Mixed::new(config.train.precision, device),
        }
    }

    /// The mean loss of a batch that lies on the model's device, and the attention of the slots [B, K, h, w], without graph.
    pub fn loss(&self, model: &LatentSlotDiffusion, batch: &Batch) -> (Tensor, Tensor) {
        let (noise, kind) = (&batch.noise, model.kind());
        let images = to_unit_range(&batch.images).to_kind(kind);
        let (conditioning, attention) = self.mixed.run(|| {
            let features = model.backbone.forward(&images);
            let initial = model.slot_attention.initial_slots(&noise.slots.to_kind(kind));
            let slots = model.slot_attention.forward(&features, &initial);
            let conditioning = match &noise.dropped {
                Some(dropped) => drop_slots(&slots.conditioning, dropped),
                None => slots.conditioning,
            };
            (conditioning, slots.attention)
        });
        (self.denoising(model, batch, &conditioning), attention.detach())
    }

    /// The mean loss of a batch given the conditioning [B, K, out] that its slots make.
    pub fn denoising(&self, model: &LatentSlotDiffusion, batch: &Batch, conditioning: &Tensor) -> Tensor {
        let (noise, kind) = (&batch.noise, model.kind());
        // What a data set and a noise schedule give is f32, whatever the networks compute in.
        let z = Autoencoder::sample(&batch.moments.to_kind(Kind::Float), &noise.posterior) * self.latent_factor;
        let z_t = self.schedule.add_noise(&z, &noise.diffusion, &noise.timesteps);
        let prediction = self.mixed.run(|| model.unet.forward(&z_t, &noise.timesteps, conditioning));
        let target = self.schedule.target(&z, &noise.diffusion, &noise.timesteps);
        self.schedule.loss(&prediction.to_kind(kind), &target.to_kind(kind), &noise.timesteps)
    }

    /// Adds the gradients of a loss to those of the parameters.
    pub fn backward(&self, model: &LatentSlotDiffusion, loss: &Tensor) {
        model.backward(loss, self.mixed);
    }
}
