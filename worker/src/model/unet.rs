//! The denoiser: a UNet over latents, conditioned on the slots by attention (the reference's `UNet2DConditionModelWithPos`).

use std::cell::RefCell;

use common::config::UnetConfig;
use tch::{Kind, Tensor};

use super::blocks::checkpoints::Tape;
use super::blocks::resnet::Time;
use super::blocks::transformer::TransformerShape;
use super::blocks::unet_body::{MiddleShape, UnetBody, UnetShape};
use super::layers::without_gradients;
use super::precision::Mixed;
use super::variables::Scope;

/// Predicts the noise (or the velocity) in a noisy latent, given the timestep and the slots.
#[derive(Debug)]
pub struct Unet {
    body: UnetBody,
    checkpointing: bool,
    /// Forward passes whose gradients are not yet due.
    tapes: RefCell<Vec<Tape>>,
}

impl Unet {
    /// For latents of `channels` channels and `side` rows and columns, and slots of `context` channels.
    pub(crate) fn new(scope: &Scope, config: &UnetConfig, channels: i64, side: i64, context: i64) -> Self {
        let transformer =
            TransformerShape { context, heads: config.heads, norm_groups: config.norm_groups, position: config.position_embedding };
        let shape = UnetShape {
            input: channels,
            output: channels,
            channels: config.block_channels.clone(),
            layers: config.layers_per_block,
            norm_groups: config.norm_groups,
            side,
            transformers: config.attention.iter().map(|&present| present.then_some(transformer)).collect(),
            middle: MiddleShape::Transformer(transformer),
        };
        Self { body: UnetBody::new(scope, &shape), checkpointing: config.gradient_checkpointing, tapes: RefCell::default() }
    }

    /// Noisy latents z_t f32 [B, C, h, w], timesteps i64 [B], conditioning [B, K, D] -> prediction [B, C, h, w], in the kind of the
    /// weights. With `gradient_checkpointing` its gradients come by [`LatentSlotDiffusion::backward`](super::LatentSlotDiffusion) alone.
    pub fn forward(&self, z: &Tensor, timesteps: &Tensor, conditioning: &Tensor) -> Tensor {
        let time = self.body.time_embedding.forward(timesteps);
        let z = z.to_kind(time.kind()).contiguous();
        // Without gradients there is nothing to keep in any case.
        if !(self.checkpointing && time.requires_grad()) {
            return self.body.forward(&z, Time::PerImage(&time), Some(conditioning));
        }
        let (prediction, tape) = Tape::record(&self.body, &z, &time, conditioning);
        self.tapes.borrow_mut().push(tape);
        prediction
    }

    /// The same for sampling: all latents have the timestep `t`, and no gradients are asked for.
    pub fn denoise(&self, z: &Tensor, t: usize, conditioning: &Tensor) -> Tensor {
        without_gradients(|| {
            let time = self.body.time_embedding.forward(&Tensor::full([1], t as i64, (Kind::Int64, z.device())));
            let z = z.to_kind(time.kind()).contiguous();
            self.body.forward(&z, Time::Shared(&time), Some(conditioning))
        })
    }

    /// Carries on the gradients of all predictions since the last call.
    pub(super) fn backward(&self, mixed: Mixed) {
        self.tapes.take().into_iter().for_each(|tape| tape.backward(&self.body, mixed));
    }
}
