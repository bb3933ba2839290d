//! The denoiser: a UNet over latents, conditioned on the slots by attention (the reference's `UNet2DConditionModelWithPos`).

use common::config::UnetConfig;
use tch::Tensor;

use super::blocks::resnet::Time;
use super::blocks::transformer::TransformerShape;
use super::blocks::unet_body::{MiddleShape, UnetBody, UnetShape};
use super::variables::Scope;

/// Predicts the noise (or the velocity) in a noisy latent, given the timestep and the slots.
#[derive(Debug)]
pub struct Unet(UnetBody);

impl Unet {
    /// For latents of `channels` channels and `side` rows and columns, and slots of `context` channels.
    pub(crate) fn new(scope: &Scope, config: &UnetConfig, channels: i64, side: i64, context: i64) -> Self {
        let transformer =
            TransformerShape { context, heads: config.heads, norm_groups: config.norm_groups, position: config.position_embedding };
        Self(UnetBody::new(
            scope,
            &UnetShape {
                input: channels,
                output: channels,
                channels: config.block_channels.clone(),
                layers: config.layers_per_block,
                norm_groups: config.norm_groups,
                side,
                transformers: config.attention.iter().map(|&present| present.then_some(transformer)).collect(),
                middle: MiddleShape::Transformer(transformer),
            },
        ))
    }

    /// Noisy latents z_t f32 [B, C, h, w], timesteps i64 [B], conditioning [B, K, D] -> prediction [B, C, h, w], in the kind of the
    /// weights.
    pub fn forward(&self, z: &Tensor, timesteps: &Tensor, conditioning: &Tensor) -> Tensor {
        let time = self.0.time_embedding.forward(timesteps);
        self.0.forward(&z.to_kind(time.kind()).contiguous(), Time::PerImage(&time), Some(conditioning))
    }
}
