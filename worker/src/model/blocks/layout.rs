//! Memory layouts of feature maps. Maps are kept channels-last ([B, C, h, w] in shape, [B, h, w, C] in memory): convolutions run
//! without reordering, and the tokens [B, h*w, C] of a map are the same memory.

use tch::Tensor;

/// The same map [B, C, h, w], stored channels-last.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// [B, C, h, w] -> [B, h*w, C]
pub(crate) fn to_tokens(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).flatten(1, 2)
}

/// [B, h*w, C] -> [B, C, h, w], of the given height.
pub(crate) fn to_map(tokens: &Tensor, height: i64) -> Tensor {
    tokens.unflatten(1, [height, -1]).permute([0, 3, 1, 2])
}
