//! The CNN that turns an image into tokens (the reference's `UNetEncoder`; paper, appendix on the image encoder).

use common::config::BackboneConfig;
use tch::Tensor;

use super::blocks::resnet::Time;
use super::blocks::unet_body::{MiddleShape, UnetBody, UnetShape};
use super::layers::Conv2d;
use super::variables::Scope;

/// A strided convolution, then a UNet that keeps the resolution. Its time is always 0, as in the reference.
#[derive(Debug)]
pub struct Backbone {
    downscale_cnn: Conv2d,
    body: UnetBody,
}

impl Backbone {
    pub(crate) fn new(scope: &Scope, config: &BackboneConfig, resolution: i64) -> Self {
        let first = config.block_channels[0];
        let middle = match config.mid_attention_head_dim {
            0 => MiddleShape::Nothing,
            head_size => MiddleShape::Attention { head_size },
        };
        let shape = UnetShape {
            input: first,
            output: config.out_channels,
            channels: config.block_channels.clone(),
            layers: config.layers_per_block,
            norm_groups: config.norm_groups,
            side: resolution / config.stride,
            transformers: vec![None; config.block_channels.len()],
            middle,
        };
        let downscale_cnn = Conv2d::new(&(scope / "downscale_cnn"), 3, first, config.stride, config.stride, 0);
        Self { downscale_cnn, body: UnetBody::new(scope, &shape) }
    }

    /// Images f32 [B, 3, H, W] in [-1, 1] -> features [B, C, H / stride, W / stride], in the kind of the weights.
    pub fn forward(&self, images: &Tensor) -> Tensor {
        let images = images.to_kind(self.downscale_cnn.weight.kind());
        let time = self.body.time_embedding.at_zero();
        self.body.forward(&self.downscale_cnn.forward(&images.contiguous()), Time::Shared(&time), None)
    }
}
