//! Feature maps [B, C, h, w] as tokens [B, h*w, C] and back.
//!
//! Maps are kept contiguous: on CPUs the normalisation of channels-last maps costs more than the copies here.

use tch::Tensor;

/// [B, C, h, w] -> [B, h*w, C], contiguous.
pub(crate) fn to_tokens(x: &Tensor) -> Tensor {
    x.flatten(2, 3).transpose(1, 2).contiguous()
}

/// [B, h*w, C] -> [B, C, h, w], of the given height.
pub(crate) fn to_map(tokens: &Tensor, height: i64) -> Tensor {
    tokens.transpose(1, 2).unflatten(2, [height, -1])
}
