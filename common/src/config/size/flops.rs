//! Floating point operations of an image, counted exactly from the configuration, and how well workers are used by them.
//!
//! Counted are two operations for each multiply-add of convolutions, linear layers and the two products of each attention, as the paper's
//! networks have them. Not counted are biases, normalisations, activations, softmax, embeddings of positions (which are the same for all
//! images), the loss and the optimizer: together about a percent. The frozen autoencoder takes no part in training, as latents are
//! encoded beforehand. These are the model's operations, not the hardware's: what gradient checkpointing computes a second time does not
//! count, and what the worker computes in fewer operations than the paper's networks counts as there.

use super::{Config, networks, sum};

/// Floating point operations of the forward pass of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flops {
    /// The CNN that turns an image into tokens.
    pub backbone: u64,
    /// Tokens to slots, all rounds.
    pub slot_attention: u64,
    /// The denoiser, at one timestep.
    pub unet: u64,
}

impl Flops {
    /// The forward pass through all networks.
    #[must_use]
    pub fn forward(&self) -> u64 {
        self.backbone.saturating_add(self.slot_attention).saturating_add(self.unet)
    }

    /// Forward and backward: the backward pass has two products, with the gradient, for each one of the forward pass.
    #[must_use]
    pub fn training(&self) -> u64 {
        self.forward().saturating_mul(3)
    }
}

/// The operations of the networks that `config` describes.
#[must_use]
pub fn flops(config: &Config) -> Flops {
    Flops {
        backbone: networks::backbone(config).flops,
        slot_attention: networks::slot_attention(config).flops,
        unet: sum(&networks::unet(config)).flops,
    }
}

/// Model FLOPs utilisation: the share of what the devices can do that training makes of them.
///
/// `images_per_second` are those of all workers, `flops_per_image` is [`Flops::training`], and `tflops` the sum of the rates that the
/// workers reached in large matrix products: so 1 is what was measured, not what a data sheet says. None before anything is known.
#[must_use]
pub fn utilisation(images_per_second: f64, flops_per_image: u64, tflops: f64) -> Option<f64> {
    let share = images_per_second * flops_per_image as f64 / (tflops * 1e12);
    (tflops > 0.0 && share.is_finite() && share >= 0.0).then_some(share)
}
