//! Position embeddings of a square grid, under the names of the reference's modules.

use common::config::PositionEmbedding as Choice;
use tch::{Device, Kind, Tensor};

use crate::model::{
    layers::Conv2d,
    variables::{Distribution, Scope},
};

/// What is added to the tokens of a square grid.
#[derive(Debug)]
pub(crate) enum PositionEmbedding {
    /// A learned projection of (row, column, 1 - row, 1 - column).
    Cartesian {
        /// [1, 4, side, side]
        grid: Tensor,
        projection: Conv2d,
    },
    /// Sines and cosines of column and row.
    Sincos {
        /// [1, C, side, side]
        waves: Tensor,
        /// One factor on all of them, a scalar.
        gamma: Tensor,
    },
    /// One vector per position [1, side * side, C].
    Learned(Tensor),
    /// Nothing.
    None,
}

impl PositionEmbedding {
    /// For tokens of `channels` channels on a grid of `side` rows and columns.
    pub(crate) fn new(scope: &Scope, choice: Choice, side: i64, channels: i64) -> Self {
        match choice {
            Choice::Cartesian => {
                let grid = scope.constant("pe", cartesian_grid(side));
                Self::Cartesian { grid, projection: Conv2d::pointwise(&(scope / "projection"), 4, channels) }
            }
            Choice::Sincos => {
                let gamma = scope.parameter("gamma", &[], Distribution::Constant(1.0));
                Self::Sincos { gamma, waves: scope.constant("pos_embed", waves(side, channels)) }
            }
            Choice::Learned => Self::Learned(scope.parameter("pe", &[1, side * side, channels], Distribution::Normal(0.02))),
            Choice::None => Self::None,
        }
    }

    /// At the input of an attention of a transformer: there the reference wraps the embeddings of maps, and only those, in a sequence.
    pub(crate) fn of_attention(attention: &Scope, choice: Choice, side: i64, channels: i64) -> Self {
        let name = if choice == Choice::Learned { "pos_emb" } else { "pos_emb.1" };
        Self::new(&(attention / name), choice, side, channels)
    }

    /// Tokens [B, side * side, C] with their positions added.
    pub(crate) fn add_to(&self, tokens: &Tensor) -> Tensor {
        match self {
            Self::Cartesian { grid, projection } => tokens + projection.forward_tokens(&as_tokens(grid)),
            Self::Sincos { waves, gamma } => tokens + gamma * as_tokens(waves),
            Self::Learned(vectors) => tokens + vectors,
            Self::None => tokens.shallow_clone(),
        }
    }
}

/// [1, C, side, side] -> [side * side, C], a view.
fn as_tokens(map: &Tensor) -> Tensor {
    map.flatten(2, 3).squeeze_dim(0).transpose(0, 1)
}

/// Rows and columns of the cell centres in (0, 1), and their complements: [1, 4, side, side].
fn cartesian_grid(side: i64) -> Tensor {
    let centres = (Tensor::arange(side, (Kind::Float, Device::Cpu)) + 0.5) / side as f64;
    let row = centres.unsqueeze(1).expand([side, side], false);
    let column = centres.unsqueeze(0).expand([side, side], false);
    Tensor::stack(&[&row, &column, &(1.0 - &row), &(1.0 - &column)], 0).unsqueeze(0)
}

/// Sines, then cosines, of the column, then of the row, at C / 4 frequencies from 1 down to almost 1 / 10,000: [1, C, side, side].
fn waves(side: i64, channels: i64) -> Tensor {
    let options = (Kind::Double, Device::Cpu);
    let quarter = channels / 4;
    let frequencies = (Tensor::arange(quarter, options) * (-(10_000_f64.ln()) / quarter as f64)).exp();
    // [C / 2, side]
    let angles = frequencies.unsqueeze(1) * Tensor::arange(side, options).unsqueeze(0);
    let waves = Tensor::cat(&[angles.sin(), angles.cos()], 0);
    let of_column = waves.unsqueeze(1).expand([2 * quarter, side, side], false);
    let of_row = waves.unsqueeze(2).expand([2 * quarter, side, side], false);
    Tensor::cat(&[of_column, of_row], 0).unsqueeze(0).to_kind(Kind::Float)
}
