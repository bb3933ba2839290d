//! The embedding of the diffusion timestep.

use tch::{Kind, Tensor};

use crate::model::{layers::Linear, variables::Scope};

/// Sinusoids of the timestep (cosines first), then a two-layer MLP.
#[derive(Debug)]
pub(crate) struct TimeEmbedding {
    /// [channels / 2], f64.
    frequencies: Tensor,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    /// Embeds into 4 * `channels` from `channels` sinusoids.
    pub(crate) fn new(scope: &Scope, channels: i64) -> Self {
        let half = channels / 2;
        let exponent = Tensor::arange(half, (Kind::Double, scope.device())) * (-(10_000_f64.ln()) / half as f64);
        let linear_1 = Linear::new(&(scope / "linear_1"), channels, 4 * channels);
        let linear_2 = Linear::new(&(scope / "linear_2"), 4 * channels, 4 * channels);
        Self { frequencies: exponent.exp(), linear_1, linear_2 }
    }

    /// Timesteps i64 [B] -> the *activated* embedding SiLU(e) [B, 4 * channels]: every consumer starts with that SiLU.
    pub(crate) fn forward(&self, timesteps: &Tensor) -> Tensor {
        let kind = self.linear_1.weight.kind();
        let angles = timesteps.to_kind(kind).unsqueeze(1) * self.frequencies.to_kind(kind);
        let sinusoids = Tensor::cat(&[angles.cos(), angles.sin()], 1);
        self.linear_2.forward(&self.linear_1.forward(&sinusoids).silu()).silu()
    }

    /// The activated embedding [1, 4 * channels] of timestep 0.
    pub(crate) fn at_zero(&self) -> Tensor {
        self.forward(&Tensor::zeros([1], (Kind::Int64, self.frequencies.device())))
    }
}
