//! The Cartesian position embedding: a learned projection of (row, column, 1 - row, 1 - column).

use common::config::PositionEmbedding as Choice;
use tch::{Kind, Tensor};

use crate::model::{layers::Conv2d, variables::Scope};

/// Position embedding of a square grid, or nothing.
#[derive(Debug)]
pub(crate) struct PositionEmbedding(Option<Cartesian>);

#[derive(Debug)]
struct Cartesian {
    /// [side * side, 4]
    grid: Tensor,
    projection: Conv2d,
}

impl PositionEmbedding {
    pub(crate) fn new(scope: &Scope, choice: Choice, side: i64, channels: i64) -> Self {
        match choice {
            Choice::None => Self(None),
            Choice::Cartesian => {
                let grid = scope.constant("pe", cartesian_grid(side));
                let grid = grid.flatten(2, 3).squeeze_dim(0).transpose(0, 1).contiguous();
                Self(Some(Cartesian { grid, projection: Conv2d::pointwise(&(scope / "projection"), 4, channels) }))
            }
        }
    }

    /// Tokens [B, side * side, C] with their positions added.
    pub(crate) fn add_to(&self, tokens: &Tensor) -> Tensor {
        match &self.0 {
            None => tokens.shallow_clone(),
            Some(Cartesian { grid, projection }) => tokens + projection.forward_tokens(grid),
        }
    }
}

/// Rows and columns of the cell centres in (0, 1), and their complements: [1, 4, side, side].
fn cartesian_grid(side: i64) -> Tensor {
    let centres = (Tensor::arange(side, (Kind::Float, tch::Device::Cpu)) + 0.5) / side as f64;
    let row = centres.unsqueeze(1).expand([side, side], false);
    let column = centres.unsqueeze(0).expand([side, side], false);
    Tensor::stack(&[&row, &column, &(1.0 - &row), &(1.0 - &column)], 0).unsqueeze(0)
}
