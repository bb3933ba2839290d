//! The residual block, and the convolutions that halve and double a map.

use tch::Tensor;

use crate::model::{
    layers::{Conv2d, GroupNorm, Linear},
    variables::Scope,
};

/// GroupNorms of a network: how many groups, and the epsilon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) groups: i64,
    pub(crate) epsilon: f64,
}

impl Norm {
    pub(crate) fn layer(self, scope: &Scope, channels: i64) -> GroupNorm {
        GroupNorm::new(scope, self.groups, channels, self.epsilon)
    }
}

/// What a residual block is told about time: the activated time embedding.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Time<'a> {
    /// The network knows no time (the autoencoder).
    None,
    /// One for the whole batch [1, T]: it becomes part of a convolution's bias.
    Shared(&'a Tensor),
    /// One per image [B, T].
    PerImage(&'a Tensor),
}

/// GroupNorm, SiLU, convolution, twice, with time added in between and a shortcut around (diffusers' `ResnetBlock2D`).
#[derive(Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// `time` is the width of the time embedding, if the network has one.
    pub(crate) fn new(scope: &Scope, input: i64, output: i64, time: Option<i64>, norm: Norm) -> Self {
        Self {
            norm1: norm.layer(&(scope / "norm1"), input),
            conv1: Conv2d::same(&(scope / "conv1"), input, output),
            time_emb_proj: time.map(|width| Linear::new(&(scope / "time_emb_proj"), width, output)),
            norm2: norm.layer(&(scope / "norm2"), output),
            conv2: Conv2d::same(&(scope / "conv2"), output, output),
            conv_shortcut: (input != output).then(|| Conv2d::pointwise(&(scope / "conv_shortcut"), input, output)),
        }
    }

    /// [B, in, h, w] -> [B, out, h, w]
    pub(crate) fn forward(&self, x: &Tensor, time: Time) -> Tensor {
        let h = self.norm1.forward(x).silu();
        let h = match (&self.time_emb_proj, time) {
            (Some(project), Time::Shared(embedding)) => {
                self.conv1.forward_with_bias(&h, &project.forward(embedding).squeeze_dim(0))
            }
            (Some(project), Time::PerImage(embedding)) => {
                self.conv1.forward(&h) + project.forward(embedding).unsqueeze(-1).unsqueeze(-1)
            }
            _ => self.conv1.forward(&h),
        };
        let h = self.conv2.forward(&self.norm2.forward(&h).silu());
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

/// Halves a map by a 3x3 convolution with stride 2.
#[derive(Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
    padding: Padding,
}

/// Where a [`Downsample`] pads its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// One pixel on every side (the UNets).
    Around,
    /// One pixel right and below (the autoencoder's encoder).
    RightBelow,
}

impl Downsample {
    pub(crate) fn new(scope: &Scope, channels: i64, padding: Padding) -> Self {
        let around = i64::from(padding == Padding::Around);
        Self { conv: Conv2d::new(&(scope / "conv"), channels, channels, 3, 2, around), padding }
    }

    /// [B, C, h, w] -> [B, C, h/2, w/2]
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match self.padding {
            Padding::Around => self.conv.forward(x),
            Padding::RightBelow => self.conv.forward(&x.constant_pad_nd([0, 1, 0, 1])),
        }
    }
}

/// Doubles a map: nearest neighbour, then a 3x3 convolution.
///
/// Both together are one transposed convolution with stride 2, whose 4x4 kernel holds sums of the 3x3 kernel's weights: 4 instead of 9
/// products per output, and no enlarged copy of the input.
#[derive(Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
    /// [9, 16]: the weights of the 4x4 kernel as sums of those of the 3x3 kernel.
    widen: Tensor,
}

impl Upsample {
    pub(crate) fn new(scope: &Scope, channels: i64) -> Self {
        // Along one axis, output 2 i + p sees input i + floor((p + k - 1) / 2) through weight k of the 3x3 kernel, and sees input
        // i + j through weight p - 2 j + 1 of the transposed kernel.
        let axis = Tensor::from_slice(&[0_f32, 0., 1., 0., 1., 1., 1., 1., 0., 1., 0., 0.]).view([4, 3]);
        let widen = axis.transpose(0, 1).contiguous().kron(&axis.transpose(0, 1).contiguous());
        Self { conv: Conv2d::same(&(scope / "conv"), channels, channels), widen: widen.to_device(scope.device()) }
    }

    /// [B, C, h, w] -> [B, C, 2h, 2w]
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let kernel = self
            .conv
            .weight
            .flatten(2, 3)
            .matmul(&self.widen.to_kind(self.conv.weight.kind()))
            .unflatten(2, [4, 4])
            .transpose(0, 1);
        x.conv_transpose2d(&kernel, Some(&self.conv.bias), [2, 2], [1, 1], [0, 0], 1, [1, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::variables::{Initial, Variables};
    use tch::{Device, Kind};

    #[test]
    fn upsampling_is_nearest_neighbour_and_convolution() {
        let variables = Variables::new("test", Initial::Seed(1), Device::Cpu);
        let upsample = Upsample::new(&variables.root(), 3);
        let x = Tensor::randn([2, 3, 4, 5], (Kind::Float, Device::Cpu));
        let expected = upsample.conv.forward(&x.upsample_nearest2d([8, 10], None, None));
        assert!(upsample.forward(&x).allclose(&expected, 1e-5, 1e-5, false));
    }
}
