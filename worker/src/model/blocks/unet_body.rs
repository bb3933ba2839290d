//! What the backbone and the denoiser have in common: a UNet from its first to its last convolution.

use tch::Tensor;

use super::attention::MapAttention;
use super::levels::{DownLevel, LevelShape, UpChannels, UpLevel};
use super::resnet::{Norm, ResnetBlock, Time};
use super::time::TimeEmbedding;
use super::transformer::{Transformer, TransformerShape};
use crate::model::{
    layers::{Conv2d, GroupNorm},
    variables::Scope,
};

/// The sizes of a UNet.
#[derive(Debug, Clone)]
pub(crate) struct UnetShape {
    pub(crate) input: i64,
    pub(crate) output: i64,
    /// Channels of each level.
    pub(crate) channels: Vec<i64>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub(crate) layers: usize,
    pub(crate) norm_groups: i64,
    /// Side of the maps at the first level.
    pub(crate) side: i64,
    /// The transformers of each level, where it has them.
    pub(crate) transformers: Vec<Option<TransformerShape>>,
    pub(crate) middle: MiddleShape,
}

/// What stands between the two residual blocks of the middle.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MiddleShape {
    Nothing,
    /// Self-attention of the map with heads of this size.
    Attention {
        head_size: i64,
    },
    Transformer(TransformerShape),
}

#[derive(Debug)]
enum Middle {
    Nothing,
    Attention(Box<MapAttention>),
    Transformer(Box<Transformer>),
}

/// A UNet with skip connections and time.
#[derive(Debug)]
pub(crate) struct UnetBody {
    conv_in: Conv2d,
    pub(crate) time_embedding: TimeEmbedding,
    down: Vec<DownLevel>,
    middle_in: ResnetBlock,
    middle: Middle,
    middle_out: ResnetBlock,
    up: Vec<UpLevel>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UnetBody {
    pub(crate) fn new(scope: &Scope, shape: &UnetShape) -> Self {
        let channels = &shape.channels;
        let levels = channels.len();
        let (first, deepest) = (channels[0], channels[levels - 1]);
        let norm = Norm { groups: shape.norm_groups, epsilon: 1e-5 };
        let level = |i: usize| LevelShape { norm, time: 4 * first, side: shape.side >> i, transformer: shape.transformers[i] };
        let down = |i: usize| {
            let input = channels[i.saturating_sub(1)];
            DownLevel::new(&(scope / "down_blocks" / i), input, channels[i], shape.layers, i + 1 == levels, level(i))
        };
        let up = |i: usize| {
            let depth = levels - 1 - i;
            let below = channels[(depth + 1).min(levels - 1)];
            let sizes = UpChannels { below, output: channels[depth], skip: channels[depth.saturating_sub(1)] };
            UpLevel::new(&(scope / "up_blocks" / i), sizes, shape.layers + 1, depth == 0, level(depth))
        };
        let middle = scope / "mid_block";
        let resnet = |i: usize| ResnetBlock::new(&(&middle / "resnets" / i), deepest, deepest, Some(4 * first), norm);
        Self {
            conv_in: Conv2d::same(&(scope / "conv_in"), shape.input, first),
            time_embedding: TimeEmbedding::new(&(scope / "time_embedding"), first),
            down: (0..levels).map(down).collect(),
            middle_in: resnet(0),
            middle: Middle::new(&(&middle / "attentions.0"), shape.middle, deepest, norm, shape.side >> (levels - 1)),
            middle_out: resnet(1),
            up: (0..levels).map(up).collect(),
            conv_norm_out: norm.layer(&(scope / "conv_norm_out"), first),
            conv_out: Conv2d::same(&(scope / "conv_out"), first, shape.output),
        }
    }

    /// x [B, input, side, side]; slots [B, K, D] where there are transformers -> [B, output, side, side].
    pub(crate) fn forward(&self, x: &Tensor, time: Time, slots: Option<&Tensor>) -> Tensor {
        self.pass(x, |part, inputs| self.part(part, inputs, time, slots))
    }

    /// Goes through the parts with `run`, which computes the outputs of a part from its inputs. Returns the output of the last.
    pub(crate) fn pass(&self, x: &Tensor, mut run: impl FnMut(Part, Vec<Tensor>) -> Vec<Tensor>) -> Tensor {
        let mut x = last(&run(Part::First, vec![x.shallow_clone()]));
        let mut skips = vec![x.shallow_clone()];
        for level in 0..self.down.len() {
            let outputs = run(Part::Down(level), vec![x]);
            x = last(&outputs);
            skips.extend(outputs);
        }
        x = last(&run(Part::Middle, vec![x]));
        for (level, up) in self.up.iter().enumerate() {
            let mut inputs = skips.split_off(skips.len() - up.skips());
            inputs.push(x);
            x = last(&run(Part::Up(level), inputs));
        }
        last(&run(Part::Last, vec![x]))
    }

    /// One part: inputs -> outputs. On the way up the inputs are the skip connections, then the map from below; on the way down the
    /// outputs are the skip connections, the last of which goes on.
    pub(crate) fn part(&self, part: Part, mut inputs: Vec<Tensor>, time: Time, slots: Option<&Tensor>) -> Vec<Tensor> {
        let x = inputs.pop().unwrap_or_default();
        let output = match part {
            Part::First => self.conv_in.forward(&x),
            Part::Down(level) => return self.down[level].forward(x, time, slots),
            Part::Middle => self.middle_out.forward(&self.middle.forward(self.middle_in.forward(&x, time), slots), time),
            Part::Up(level) => self.up[level].forward(x, time, slots, &mut inputs),
            Part::Last => self.conv_out.forward(&self.conv_norm_out.forward(&x).silu()),
        };
        vec![output]
    }
}

/// The parts of a UNet, in the order in which they are computed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    First,
    /// A level, counted from the top.
    Down(usize),
    Middle,
    /// A level, counted from the bottom.
    Up(usize),
    Last,
}

/// The output that goes on.
fn last(outputs: &[Tensor]) -> Tensor {
    outputs.last().map_or_else(Tensor::new, Tensor::shallow_clone)
}

impl Middle {
    fn new(scope: &Scope, shape: MiddleShape, channels: i64, norm: Norm, side: i64) -> Self {
        match shape {
            MiddleShape::Nothing => Self::Nothing,
            MiddleShape::Attention { head_size } => Self::Attention(Box::new(MapAttention::new(scope, channels, head_size, norm))),
            MiddleShape::Transformer(shape) => Self::Transformer(Box::new(Transformer::new(scope, channels, side, shape))),
        }
    }

    fn forward(&self, x: Tensor, slots: Option<&Tensor>) -> Tensor {
        match (self, slots) {
            (Self::Attention(attention), _) => attention.forward(&x),
            (Self::Transformer(transformer), Some(slots)) => transformer.forward(&x, slots),
            _ => x,
        }
    }
}
