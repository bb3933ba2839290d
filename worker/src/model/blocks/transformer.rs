//! The transformer block through which the denoiser sees the slots, with a position embedding at each attention input.

use common::config::PositionEmbedding as PositionChoice;
use tch::Tensor;

use super::attention::Attention;
use super::layout::{to_map, to_tokens};
use super::position::PositionEmbedding;
use super::resnet::Norm;
use crate::model::{
    layers::{Conv2d, GroupNorm, LayerNorm, Linear},
    variables::Scope,
};

/// What all transformers of a network have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerShape {
    /// Channels of a slot as the denoiser sees it.
    pub(crate) context: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Groups of the GroupNorm at the entrance.
    pub(crate) norm_groups: i64,
    /// Position embedding at each attention input.
    pub(crate) position: PositionChoice,
}

/// Self-attention, attention to the slots, and a gated feed-forward layer over the positions of a map (diffusers'
/// `Transformer2DModel` with one block).
#[derive(Debug)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    proj_in: Conv2d,
    norm1: LayerNorm,
    pos1: PositionEmbedding,
    attn1: Attention,
    norm2: LayerNorm,
    pos2: PositionEmbedding,
    attn2: Attention,
    norm3: LayerNorm,
    /// [8 C, C]: values, then gates.
    ff_in: Linear,
    ff_out: Linear,
    proj_out: Conv2d,
}

impl Transformer {
    /// For maps of `channels` channels and `side` rows and columns.
    pub(crate) fn new(scope: &Scope, channels: i64, side: i64, shape: TransformerShape) -> Self {
        let TransformerShape { context, heads, norm_groups, position } = shape;
        let block = scope / "transformer_blocks.0";
        let position = |attention: &str| PositionEmbedding::of_attention(&(&block / attention), position, side, channels);
        Self {
            norm: Norm { groups: norm_groups, epsilon: 1e-6 }.layer(&(scope / "norm"), channels),
            proj_in: Conv2d::pointwise(&(scope / "proj_in"), channels, channels),
            norm1: LayerNorm::new(&(&block / "norm1"), channels),
            pos1: position("attn1"),
            attn1: Attention::new(&(&block / "attn1"), channels, channels, heads),
            norm2: LayerNorm::new(&(&block / "norm2"), channels),
            pos2: position("attn2"),
            attn2: Attention::new(&(&block / "attn2"), channels, context, heads),
            norm3: LayerNorm::new(&(&block / "norm3"), channels),
            ff_in: Linear::new(&(&block / "ff.net.0.proj"), channels, 8 * channels),
            ff_out: Linear::new(&(&block / "ff.net.2"), 4 * channels, channels),
            proj_out: Conv2d::pointwise(&(scope / "proj_out"), channels, channels),
        }
    }

    /// x [B, C, side, side], slots [B, K, D] -> [B, C, side, side]
    pub(crate) fn forward(&self, x: &Tensor, slots: &Tensor) -> Tensor {
        let (_, _, height, _) = x.size4().unwrap_or_default();
        let h = self.proj_in.forward_tokens(&to_tokens(&self.norm.forward(x)));
        let h = &h + self.attn1.to_itself(&self.pos1.add_to(&self.norm1.forward(&h)));
        let h = &h + self.attn2.to_context(&self.pos2.add_to(&self.norm2.forward(&h)), slots);
        let h = &h + self.feed_forward(&self.norm3.forward(&h));
        x + to_map(&self.proj_out.forward_tokens(&h), height)
    }

    /// GEGLU with a fourfold hidden width: [B, N, C] -> [B, N, C]. Values and gates are products of their own, so that what follows
    /// finds them in contiguous memory.
    fn feed_forward(&self, x: &Tensor) -> Tensor {
        let [value, gate] = self.ff_in.halves(x);
        self.ff_out.forward(&(value * gate.gelu("none")))
    }
}
