//! The three networks as sums of layers, in the order in which the worker builds them (`worker/src/model`).

use super::layers::{Layers, Transformers, product};
use crate::config::{BackboneConfig, Config, SlotAttentionConfig, SlotInitialisation, UnetConfig};

/// A number of the configuration, which validation has found to be positive.
pub(super) fn size(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Side of the square latent.
pub(super) fn latent_side(config: &Config) -> u64 {
    halved(config.data.resolution as u64, config.autoencoder.block_channels.len().saturating_sub(1))
}

/// Side of the square grid of tokens.
fn token_side(config: &Config) -> u64 {
    config.data.resolution as u64 / size(config.model.backbone.stride).max(1)
}

fn halved(side: u64, times: usize) -> u64 {
    u32::try_from(times).ok().and_then(|times| side.checked_shr(times)).unwrap_or(0)
}

/// The CNN that turns an image into tokens.
pub(super) fn backbone(config: &Config) -> Layers {
    let BackboneConfig { stride, block_channels, layers_per_block, out_channels, mid_attention_head_dim, .. } =
        &config.model.backbone;
    let resolution = config.data.resolution as u64;
    let first = block_channels.first().copied().map_or(0, size);
    let mut layers = Layers::default();
    let tokens = product(&[token_side(config), token_side(config)]);
    layers.conv(3, first, size(*stride), tokens);
    layers.keep(&[3, resolution, resolution]);
    let body = Body {
        input: first,
        output: size(*out_channels),
        channels: block_channels.iter().copied().map(size).collect(),
        layers: *layers_per_block,
        side: token_side(config),
        transformers: vec![None; block_channels.len()],
        middle: if *mid_attention_head_dim == 0 { Middle::Nothing } else { Middle::Attention },
    };
    body.parts().into_iter().for_each(|part| layers.add(part.layers));
    layers
}

/// Tokens to slots.
pub(super) fn slot_attention(config: &Config) -> Layers {
    let shape: &SlotAttentionConfig = &config.model.slot_attention;
    let (input, side) = (size(config.model.backbone.out_channels), token_side(config));
    let (slots, width, hidden, output) = (size(shape.slots), size(shape.slot_size), size(shape.mlp_hidden), size(shape.out_size));
    let mut layers = Layers::default();
    match shape.initialisation {
        SlotInitialisation::Sampled => layers.weights(&[&[2, width]]),
        SlotInitialisation::Learned => layers.weights(&[&[slots, width]]),
    }
    layers.position(shape.position_embedding, side, input);
    [input, input, width, width, width].into_iter().for_each(|channels| layers.norm(channels));
    let tokens = product(&[side, side]);
    (0..2).for_each(|_| layers.linear(input, input, tokens));
    (0..2).for_each(|_| layers.projection(input, width, tokens));
    // Every round has the same weights.
    let mut round = Layers::default();
    round.projection(width, width, slots);
    round.attend(width, slots, tokens);
    (0..2).for_each(|_| round.linear(width, product(&[3, width]), slots));
    round.linear(width, hidden, slots);
    round.linear(hidden, width, slots);
    layers.add(Layers { flops: round.flops.saturating_mul(shape.iterations as u64), ..round });
    layers.linear(width, output, slots);
    // The inputs of both normalisations and of the three linear layers, keys and values together, scaled keys.
    layers.keep(&[5, input, side, side]);
    layers.keep(&[3, width, side, side]);
    // With `bi_level` the earlier rounds leave nothing behind.
    let rounds = if shape.bi_level { 1 } else { shape.iterations as u64 };
    layers.keep(&[rounds, size(shape.heads), slots, side, side]);
    layers
}

/// The denoiser, part by part: what `gradient_checkpointing` forgets and computes again is one part.
pub(super) fn unet(config: &Config) -> Vec<Part> {
    let UnetConfig { block_channels, layers_per_block, attention, heads, position_embedding, .. } = &config.model.unet;
    let slot_attention = &config.model.slot_attention;
    let transformers = Transformers {
        slots: size(slot_attention.slots),
        context: size(slot_attention.out_size),
        heads: size(*heads),
        position: *position_embedding,
    };
    let latent = size(config.autoencoder.latent_channels);
    let body = Body {
        input: latent,
        output: latent,
        channels: block_channels.iter().copied().map(size).collect(),
        layers: *layers_per_block,
        side: latent_side(config),
        transformers: attention.iter().map(|present| present.then_some(transformers)).collect(),
        middle: Middle::Transformer(transformers),
    };
    body.parts()
}

/// A part of a UNet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    /// What it is made of.
    pub(super) layers: Layers,
    /// Numbers per image that it hands on.
    pub(super) outputs: u64,
}

/// `UnetBody`: a UNet with skip connections and time.
struct Body {
    input: u64,
    output: u64,
    /// Channels of each level.
    channels: Vec<u64>,
    /// Residual blocks per level on the way down; one more on the way up.
    layers: usize,
    /// Side of the maps at the first level.
    side: u64,
    /// The transformers of each level, where it has them.
    transformers: Vec<Option<Transformers>>,
    middle: Middle,
}

/// What stands between the two residual blocks of the middle.
enum Middle {
    Nothing,
    Attention,
    Transformer(Transformers),
}

impl Body {
    /// First convolution, levels down, middle, levels up, last convolution.
    fn parts(&self) -> Vec<Part> {
        let levels = self.channels.len();
        let down = (0..levels).map(|level| self.down(level));
        let up = (0..levels).rev().map(|level| self.up(level));
        [self.first()].into_iter().chain(down).chain([self.middle()]).chain(up).chain([self.last()]).collect()
    }

    /// Channels of a level; those of the nearest level beyond the ends.
    fn channels(&self, level: usize) -> u64 {
        self.channels.get(level).or(self.channels.last()).copied().unwrap_or(0)
    }

    fn side(&self, level: usize) -> u64 {
        halved(self.side, level)
    }

    /// Width of the time embedding.
    fn time(&self) -> u64 {
        self.channels(0).saturating_mul(4)
    }

    /// A residual block and its transformer, if the level has them.
    fn stage(&self, level: usize, input: u64) -> Layers {
        let (output, side) = (self.channels(level), self.side(level));
        let mut layers = Layers::default();
        layers.resnet(input, output, self.time(), side);
        if let Some(shape) = self.transformers.get(level).copied().flatten() {
            layers.transformer(output, side, shape);
        }
        layers
    }

    fn first(&self) -> Part {
        let (channels, side) = (self.channels(0), self.side);
        let mut layers = Layers::default();
        layers.time_embedding(channels);
        layers.conv(self.input, channels, 3, product(&[side, side]));
        layers.keep(&[self.input, side, side]);
        Part { layers, outputs: product(&[channels, side, side]) }
    }

    fn down(&self, level: usize) -> Part {
        let (channels, side) = (self.channels(level), self.side(level));
        let mut part = Part::default();
        for layer in 0..self.layers {
            let input = if layer == 0 { self.channels(level.saturating_sub(1)) } else { channels };
            part.layers.add(self.stage(level, input));
        }
        part.outputs = product(&[self.layers as u64, channels, side, side]);
        if level + 1 < self.channels.len() {
            part.layers.downsample(channels, side);
            part.outputs = part.outputs.saturating_add(product(&[channels, side / 2, side / 2]));
        }
        part
    }

    fn middle(&self) -> Part {
        let level = self.channels.len().saturating_sub(1);
        let (channels, side) = (self.channels(level), self.side(level));
        let mut layers = Layers::default();
        (0..2).for_each(|_| layers.resnet(channels, channels, self.time(), side));
        match self.middle {
            Middle::Nothing => {}
            Middle::Attention => layers.map_attention(channels, side),
            Middle::Transformer(shape) => layers.transformer(channels, side, shape),
        }
        Part { layers, outputs: product(&[channels, side, side]) }
    }

    /// Every block on the way up reads the map so far beside a skip connection, the last one beside the one of the level above.
    fn up(&self, level: usize) -> Part {
        let (channels, side) = (self.channels(level), self.side(level));
        let mut part = Part::default();
        for layer in 0..=self.layers {
            let below = if layer == 0 { self.channels(level + 1) } else { channels };
            let skip = if layer == self.layers { self.channels(level.saturating_sub(1)) } else { channels };
            part.layers.add(self.stage(level, below.saturating_add(skip)));
        }
        part.outputs = product(&[channels, side, side]);
        if level > 0 {
            part.layers.upsample(channels, side);
            part.outputs = part.outputs.saturating_mul(4);
        }
        part
    }

    fn last(&self) -> Part {
        let (channels, side) = (self.channels(0), self.side);
        let mut layers = Layers::default();
        layers.norm(channels);
        layers.conv(channels, self.output, 3, product(&[side, side]));
        layers.keep(&[3, channels, side, side]);
        Part { layers, outputs: product(&[self.output, side, side]) }
    }
}
