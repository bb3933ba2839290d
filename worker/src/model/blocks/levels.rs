//! The levels of a UNet: residual blocks, each followed by a transformer where the level has them, then a change of resolution.

use tch::Tensor;

use super::resnet::{Downsample, Norm, Padding, ResnetBlock, Time, Upsample};
use super::transformer::{Transformer, TransformerShape};
use crate::model::variables::Scope;

/// What a UNet's levels have in common, and what sets one apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LevelShape {
    pub(crate) norm: Norm,
    /// Width of the time embedding.
    pub(crate) time: i64,
    /// Side of the level's maps.
    pub(crate) side: i64,
    /// The level's transformers, if it has them.
    pub(crate) transformer: Option<TransformerShape>,
}

impl LevelShape {
    fn resnet(&self, scope: &Scope, index: usize, input: i64, output: i64) -> ResnetBlock {
        ResnetBlock::new(&(scope / "resnets" / index), input, output, Some(self.time), self.norm)
    }

    fn transformer(&self, scope: &Scope, index: usize, channels: i64) -> Option<Transformer> {
        self.transformer.map(|shape| Transformer::new(&(scope / "attentions" / index), channels, self.side, shape))
    }
}

/// A residual block and its transformer, if any.
#[derive(Debug)]
struct Stage {
    resnet: ResnetBlock,
    transformer: Option<Transformer>,
}

impl Stage {
    fn forward(&self, x: &Tensor, time: Time, slots: Option<&Tensor>) -> Tensor {
        let x = self.resnet.forward(x, time);
        match (&self.transformer, slots) {
            (Some(transformer), Some(slots)) => transformer.forward(&x, slots),
            _ => x,
        }
    }
}

/// A level on the way down.
#[derive(Debug)]
pub(crate) struct DownLevel {
    stages: Vec<Stage>,
    downsampler: Option<Downsample>,
}

impl DownLevel {
    /// `last` leaves out the downsampling.
    pub(crate) fn new(scope: &Scope, input: i64, output: i64, layers: usize, last: bool, shape: LevelShape) -> Self {
        let stage = |i| Stage {
            resnet: shape.resnet(scope, i, if i == 0 { input } else { output }, output),
            transformer: shape.transformer(scope, i, output),
        };
        let stages = (0..layers).map(stage).collect();
        let downsampler = (!last).then(|| Downsample::new(&(scope / "downsamplers.0"), output, Padding::Around));
        Self { stages, downsampler }
    }

    /// Returns what the way up will need; the last of them is the level's output.
    pub(crate) fn forward(&self, x: Tensor, time: Time, slots: Option<&Tensor>) -> Vec<Tensor> {
        let (mut x, mut skips) = (x, Vec::new());
        for stage in &self.stages {
            x = stage.forward(&x, time, slots);
            skips.push(x.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            skips.push(downsampler.forward(&x));
        }
        skips
    }
}

/// Channels around a level on the way up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpChannels {
    /// Of the map that comes from below.
    pub(crate) below: i64,
    /// Of the level.
    pub(crate) output: i64,
    /// Of the level's last skip connection, which comes from the next level up.
    pub(crate) skip: i64,
}

/// A level on the way up.
#[derive(Debug)]
pub(crate) struct UpLevel {
    stages: Vec<Stage>,
    upsampler: Option<Upsample>,
}

impl UpLevel {
    /// `last` leaves out the upsampling.
    pub(crate) fn new(scope: &Scope, channels: UpChannels, layers: usize, last: bool, shape: LevelShape) -> Self {
        let UpChannels { below, output, skip } = channels;
        let stage = |i| {
            let input = if i == 0 { below } else { output } + if i + 1 == layers { skip } else { output };
            let resnet = shape.resnet(scope, i, input, output);
            Stage { resnet, transformer: shape.transformer(scope, i, output) }
        };
        let stages = (0..layers).map(stage).collect();
        let upsampler = (!last).then(|| Upsample::new(&(scope / "upsamplers.0"), output));
        Self { stages, upsampler }
    }

    /// How many skip connections it takes.
    pub(crate) fn skips(&self) -> usize {
        self.stages.len()
    }

    /// Takes its skip connections from the end of `skips`.
    pub(crate) fn forward(&self, x: Tensor, time: Time, slots: Option<&Tensor>, skips: &mut Vec<Tensor>) -> Tensor {
        let mut x = x;
        for stage in &self.stages {
            let joined = skips.pop().map_or_else(|| x.shallow_clone(), |skip| Tensor::cat(&[&x, &skip], 1));
            x = stage.forward(&joined, time, slots);
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(&x),
            None => x,
        }
    }
}
