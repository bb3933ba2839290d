//! Multi-head attention: the transformer's, and the self-attention of a whole map in the middle of a CNN.

use tch::Tensor;

use super::layout::{to_map, to_tokens};
use super::resnet::Norm;
use crate::model::{
    layers::{GroupNorm, Linear, fused_linear, wide},
    variables::Scope,
};

/// softmax(q k^T / sqrt(d)) v, head by head: q [B, N, C], k and v [B, M, C] -> [B, N, C].
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: i64) -> Tensor {
    let split = |x: &Tensor| x.unflatten(-1, [heads, -1]).transpose(1, 2);
    let output = Tensor::scaled_dot_product_attention(&split(q), &split(k), &split(v), None::<&Tensor>, 0.0, false, None, false);
    output.transpose(1, 2).flatten(2, 3)
}

/// Queries, keys, values and output projection under diffusers' names.
#[derive(Debug)]
pub(crate) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Attention {
    /// Attention of `channels` wide queries to a `context` wide sequence, without biases on q, k, v.
    pub(crate) fn new(scope: &Scope, channels: i64, context: i64, heads: i64) -> Self {
        Self {
            to_q: Linear::unbiased(&(scope / "to_q"), channels, channels),
            to_k: Linear::unbiased(&(scope / "to_k"), context, channels),
            to_v: Linear::unbiased(&(scope / "to_v"), context, channels),
            to_out: Linear::new(&(scope / "to_out.0"), channels, channels),
            heads,
        }
    }

    /// Attention of a sequence to itself, with biases everywhere.
    fn biased(scope: &Scope, channels: i64, heads: i64) -> Self {
        let linear = |name: &str| Linear::new(&(scope / name), channels, channels);
        Self { to_q: linear("to_q"), to_k: linear("to_k"), to_v: linear("to_v"), to_out: linear("to_out.0"), heads }
    }

    /// [B, N, C] -> [B, N, C]
    pub(crate) fn to_itself(&self, x: &Tensor) -> Tensor {
        let qkv = fused_linear(x, &[&self.to_q, &self.to_k, &self.to_v]).chunk(3, -1);
        self.to_out.forward(&attend(&qkv[0], &qkv[1], &qkv[2], self.heads))
    }

    /// x [B, N, C], context [B, M, D] -> [B, N, C]
    pub(crate) fn to_context(&self, x: &Tensor, context: &Tensor) -> Tensor {
        let kv = fused_linear(context, &[&self.to_k, &self.to_v]).chunk(2, -1);
        let (_, _, channels) = x.size3().unwrap_or_default();
        if self.heads * context.size()[1] <= channels {
            return self.to_short_context(x, &kv[0], &kv[1]);
        }
        self.to_out.forward(&attend(&self.to_q.forward(x), &kv[0], &kv[1], self.heads))
    }

    /// The same for so few keys that it is cheaper to carry them, per head, through the query projection and the values through the
    /// output projection, than to project every query: x [B, N, C], keys and values [B, M, C].
    fn to_short_context(&self, x: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let split = |x: &Tensor| x.unflatten(-1, [self.heads, -1]).transpose(1, 2);
        let (keys, values) = (split(keys), split(values));
        let [_, heads, length, head_size] = *keys.size() else { return x.zeros_like() };
        let scale = (head_size as f64).powf(-0.5);
        let keys = (keys * scale).matmul(&self.to_q.weight.unflatten(0, [heads, head_size])).flatten(1, 2);
        let values = values.matmul(&self.to_out.weight.unflatten(1, [heads, head_size]).permute([1, 2, 0])).flatten(1, 2);
        // [B, heads * M, N], with the softmax over M along rows of contiguous tokens.
        let logits = keys.matmul(&x.transpose(1, 2));
        let weights = logits.unflatten(1, [heads, length]).softmax(2, wide(&logits)).flatten(1, 2);
        let output = weights.transpose(1, 2).matmul(&values);
        self.to_out.bias.as_ref().map_or_else(|| output.shallow_clone(), |bias| &output + bias)
    }
}

/// Residual self-attention of a map with its own GroupNorm.
#[derive(Debug)]
pub(crate) struct MapAttention {
    group_norm: GroupNorm,
    attention: Attention,
}

impl MapAttention {
    pub(crate) fn new(scope: &Scope, channels: i64, head_size: i64, norm: Norm) -> Self {
        let group_norm = norm.layer(&(scope / "group_norm"), channels);
        Self { group_norm, attention: Attention::biased(scope, channels, channels / head_size) }
    }

    /// [B, C, h, w] -> [B, C, h, w]
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let (_, _, height, _) = x.size4().unwrap_or_default();
        x + to_map(&self.attention.to_itself(&to_tokens(&self.group_norm.forward(x))), height)
    }
}
