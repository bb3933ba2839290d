//! The four elementary layers, with PyTorch's default initialisation and parameter names (`weight`, `bias`).

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use super::variables::{Distribution, Scope};

/// The kind in which long sums and softmaxes are taken: f32, unless the values are f64.
pub(crate) fn wide(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

thread_local! {
    static WITHOUT_GRADIENTS: Cell<bool> = const { Cell::new(false) };
}

/// Runs forward passes whose results no gradients are asked of: nothing is kept for them, and products are computed in the fastest way, which
/// rounds in another order than training's.
pub fn without_gradients<T>(forward: impl FnOnce() -> T) -> T {
    /// Sets the mark back, whatever happens.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            WITHOUT_GRADIENTS.set(self.0);
        }
    }
    let _guard = tch::no_grad_guard();
    let _before = Before(WITHOUT_GRADIENTS.replace(true));
    forward()
}

/// x W^T + b over the last dimension: x [.., in], W [out, in], b [out] -> [.., out].
///
/// Without gradients, f32 tokens [B, N, in] on a CPU take the way of a 1x1 convolution, oneDNN's, which is twice as fast as MKL's matrix
/// product on processors of AMD. It takes that way with one thread from 16 images on; fewer are cut into 16 parts each.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    const FEWEST: i64 = 16;
    let on_cpu = x.device() == Device::Cpu && x.kind() == Kind::Float;
    let [images, tokens, channels] = *x.size() else { return x.linear(weight, bias) };
    let parts = if images >= FEWEST { 1 } else { FEWEST };
    if !WITHOUT_GRADIENTS.get() || !on_cpu || tokens % parts != 0 || !x.is_contiguous() {
        return x.linear(weight, bias);
    }
    // Tokens are a map whose channels are dense.
    let map = x.view([images * parts, tokens / parts, channels]).transpose(1, 2).unsqueeze(2);
    let map = map.conv2d(&weight.unsqueeze(-1).unsqueeze(-1), bias, [1; 2], [0; 2], [1; 2], 1);
    map.squeeze_dim(2).transpose(1, 2).contiguous().view([images, tokens, -1])
}

/// y = x W^T + b over the last dimension.
#[derive(Debug)]
pub(crate) struct Linear {
    /// [out, in]
    pub(crate) weight: Tensor,
    /// [out]
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(scope: &Scope, input: i64, output: i64) -> Self {
        let layer = Self::unbiased(scope, input, output);
        Self { bias: Some(scope.parameter("bias", &[output], Distribution::fan_in(input))), ..layer }
    }

    pub(crate) fn unbiased(scope: &Scope, input: i64, output: i64) -> Self {
        Self { weight: scope.parameter("weight", &[output, input], Distribution::fan_in(input)), bias: None }
    }

    /// [.., in] -> [.., out]
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        product(x, &self.weight, self.bias.as_ref())
    }
}

impl Linear {
    /// The two halves of the output as tensors of their own: [.., in] -> twice [.., out / 2].
    pub(crate) fn halves(&self, x: &Tensor) -> [Tensor; 2] {
        let half = self.weight.size()[0] / 2;
        [0, half].map(|start| {
            let bias = self.bias.as_ref().map(|bias| bias.narrow(0, start, half));
            product(x, &self.weight.narrow(0, start, half), bias.as_ref())
        })
    }
}

/// Several linear layers of one input as a single matrix product: [.., in] -> [.., sum of outs]. The weights stay separate variables.
pub(crate) fn fused_linear(x: &Tensor, layers: &[&Linear]) -> Tensor {
    let weights: Vec<&Tensor> = layers.iter().map(|layer| &layer.weight).collect();
    let biases: Vec<&Tensor> = layers.iter().filter_map(|layer| layer.bias.as_ref()).collect();
    let bias = (biases.len() == layers.len()).then(|| Tensor::cat(&biases, 0));
    product(x, &Tensor::cat(&weights, 0), bias.as_ref())
}

/// A square convolution.
#[derive(Debug)]
pub(crate) struct Conv2d {
    /// [out, in, kernel, kernel]
    pub(crate) weight: Tensor,
    /// [out]
    pub(crate) bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    pub(crate) fn new(scope: &Scope, input: i64, output: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        let distribution = Distribution::fan_in(input * kernel * kernel);
        let weight = scope.parameter("weight", &[output, input, kernel, kernel], distribution);
        let bias = scope.parameter("bias", &[output], distribution);
        Self { weight, bias, stride, padding }
    }

    /// 3x3, stride 1, same size.
    pub(crate) fn same(scope: &Scope, input: i64, output: i64) -> Self {
        Self::new(scope, input, output, 3, 1, 1)
    }

    /// 1x1.
    pub(crate) fn pointwise(scope: &Scope, input: i64, output: i64) -> Self {
        Self::new(scope, input, output, 1, 1, 0)
    }

    /// [B, in, h, w] -> [B, out, h', w']
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.convolve(x, &self.bias)
    }

    /// As [`forward`](Self::forward), with `extra` [out] added to every position for free.
    pub(crate) fn forward_with_bias(&self, x: &Tensor, extra: &Tensor) -> Tensor {
        self.convolve(x, &(&self.bias + extra))
    }

    /// A 1x1 convolution of tokens: [.., in] -> [.., out].
    pub(crate) fn forward_tokens(&self, x: &Tensor) -> Tensor {
        product(x, &self.weight.flatten(1, -1), Some(&self.bias))
    }

    fn convolve(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(bias), [self.stride; 2], [self.padding; 2], [1; 2], 1)
    }
}

/// Normalisation over groups of channels and all positions.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    epsilon: f64,
}

impl GroupNorm {
    pub(crate) fn new(scope: &Scope, groups: i64, channels: i64, epsilon: f64) -> Self {
        let weight = scope.parameter("weight", &[channels], Distribution::Constant(1.0));
        let bias = scope.parameter("bias", &[channels], Distribution::Constant(0.0));
        Self { weight, bias, groups, epsilon }
    }

    /// [B, C, h, w] -> the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.epsilon, true)
    }
}

/// Normalisation over the last dimension.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(crate) fn new(scope: &Scope, size: i64) -> Self {
        let weight = scope.parameter("weight", &[size], Distribution::Constant(1.0));
        let bias = scope.parameter("bias", &[size], Distribution::Constant(0.0));
        Self { weight, bias }
    }

    /// [.., size] -> the same.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), 1e-5, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_gradients_products_are_the_same_up_to_rounding() {
        let options = (Kind::Float, Device::Cpu);
        for (images, tokens) in [(1, 32), (3, 7), (17, 7), (20, 64)] {
            let (x, weight, bias) =
                (Tensor::randn([images, tokens, 24], options), Tensor::randn([40, 24], options), Tensor::randn([40], options));
            for bias in [None, Some(&bias)] {
                let expected = x.linear(&weight, bias);
                let found = without_gradients(|| product(&x, &weight, bias));
                assert_eq!(found.size(), expected.size());
                assert!(found.allclose(&expected, 1e-5, 1e-5, false), "{images} images of {tokens} tokens");
            }
        }
        assert!(!WITHOUT_GRADIENTS.get());
    }
}
