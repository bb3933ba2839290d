//! AdamW (Loshchilov and Hutter, 2019) over flat tensors, and clipping by the global norm.

use super::parameters::FlatParameters;
use common::config::OptimizerConfig;
use std::ops::Range;
use tch::{Device, Tensor};

/// On the CPU the update runs over blocks of this many elements, so that its dozen operations find their operands in the cache.
const CPU_BLOCK: i64 = 1 << 17;

/// AdamW: the moments of all parameters, and the update.
pub struct AdamW {
    config: OptimizerConfig,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scratch: Tensor,
    /// Group and range of every block, in order.
    blocks: Vec<(usize, Range<i64>)>,
}

impl AdamW {
    /// Zero moments for `parameters`.
    pub fn new(parameters: &FlatParameters, config: OptimizerConfig) -> Self {
        let block = if parameters.values().device() == Device::Cpu { CPU_BLOCK } else { parameters.len() };
        let blocks =
            parameters.groups().iter().enumerate().flat_map(|(group, (_, range))| split(range, block).map(move |r| (group, r)));
        let blocks: Vec<_> = blocks.collect();
        let scratch = parameters.values().narrow(0, 0, block.min(parameters.len())).empty_like();
        Self { config, exp_avg: parameters.zeros(), exp_avg_sq: parameters.zeros(), scratch, blocks }
    }

    /// First moments, `[len]`, in the layout of the parameters.
    pub fn exp_avg(&self) -> &Tensor {
        &self.exp_avg
    }

    /// Second moments, `[len]`, in the layout of the parameters.
    pub fn exp_avg_sq(&self) -> &Tensor {
        &self.exp_avg_sq
    }

    /// The update number `update` (from 1) with one learning rate per group. `scale`, a tensor of one element, multiplies the gradients.
    pub fn step(&mut self, parameters: &FlatParameters, learning_rates: &[f64], update: u64, scale: Option<&Tensor>) {
        let OptimizerConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let correction1 = 1.0 - beta1.powf(update as f64);
        let correction2 = (1.0 - beta2.powf(update as f64)).sqrt();
        let gradients = parameters.gradients();
        let _guard = tch::no_grad_guard();
        for (group, range) in &self.blocks {
            let part = |flat: &Tensor| flat.narrow(0, range.start, range.end - range.start);
            let learning_rate = learning_rates[*group];
            let (mut value, mut gradient) = (part(parameters.values()), part(&gradients));
            let (mut exp_avg, mut exp_avg_sq) = (part(&self.exp_avg), part(&self.exp_avg_sq));
            let mut scratch = self.scratch.narrow(0, 0, range.end - range.start);
            if let Some(scale) = scale {
                let _ = gradient.g_mul_(scale);
            }
            let _ = exp_avg.lerp_(&gradient, 1.0 - beta1);
            let _ = gradient.square_out(&scratch);
            let _ = exp_avg_sq.lerp_(&scratch, 1.0 - beta2);
            let _ = exp_avg_sq.sqrt_out(&scratch);
            let _ = scratch.g_div_scalar_(correction2).g_add_scalar_(epsilon);
            let _ = exp_avg.div_out(&scratch, &scratch.shallow_clone());
            let _ = value.g_mul_scalar_(1.0 - learning_rate * weight_decay);
            let _ = value.g_add_(&scratch.g_mul_scalar_(-learning_rate / correction1));
        }
    }
}

/// Consecutive pieces of `range` of at most `block` elements.
fn split(range: &Range<i64>, block: i64) -> impl Iterator<Item = Range<i64>> + use<> {
    let end = range.end;
    (range.start..end).step_by(block.max(1) as usize).map(move |start| start..(start + block).min(end))
}

/// The global norm of `gradients` and the factor that brings it down to `largest`; no factor when `largest` is 0 (no clipping).
/// Both stay tensors of one element: nothing waits for the device.
pub fn clip_factor(gradients: &Tensor, largest: f64) -> (Tensor, Option<Tensor>) {
    tch::no_grad(|| {
        let norm = gradients.norm();
        let factor = (largest > 0.0).then(|| ((&norm + 1e-6).reciprocal() * largest).clamp_max(1.0));
        (norm, factor)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::training::parameters::Group;
    use tch::Kind;
    use tch::nn::{self, OptimizerConfig as _};

    /// Two groups of variables with the given gradient functions, as flat parameters and as a variable store for the reference.
    fn twins(sizes: &[i64]) -> (Vec<Tensor>, FlatParameters, nn::VarStore, Vec<Tensor>) {
        let store = nn::VarStore::new(Device::Cpu);
        let root = store.root();
        let mut mine = Vec::new();
        let mut groups = Vec::new();
        let mut reference = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let theirs = root.randn_standard(&format!("v{index}"), &[*size]);
            let variable = theirs.copy().detach().set_requires_grad(true);
            groups.push(Group { name: format!("g{index}"), variables: vec![("v".into(), variable.shallow_clone())] });
            mine.push(variable);
            reference.push(theirs);
        }
        (mine, FlatParameters::new(groups).unwrap(), store, reference)
    }

    #[test]
    fn equals_the_library_adamw_and_leaves_padding_at_zero() {
        let (mine, flat, store, theirs) = twins(&[CPU_BLOCK + 77, 31]);
        let config = OptimizerConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut adamw = AdamW::new(&flat, config);
        let mut reference = nn::AdamW { beta1: 0.9, beta2: 0.99, wd: 0.1, eps: 1e-8, amsgrad: false }.build(&store, 1e-2).unwrap();
        let loss =
            |variables: &[Tensor]| (&variables[0] - 0.5).square().mean(Kind::Float) + (&variables[1] * 3.0).sin().sum(Kind::Float);
        for update in 1..=5 {
            flat.zero_gradients();
            loss(&mine).backward();
            adamw.step(&flat, &[1e-2, 1e-2], update, None);
            reference.zero_grad();
            loss(&theirs).backward();
            reference.step();
        }
        for (mine, theirs) in mine.iter().zip(&theirs) {
            let difference = (mine - theirs).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{difference}");
        }
        let padding = flat.values().narrow(0, CPU_BLOCK + 77, 3).abs().sum(Kind::Float).double_value(&[]);
        assert_eq!(padding, 0.0);
    }

    #[test]
    fn every_group_has_its_learning_rate() {
        let (mine, flat, _store, theirs) = twins(&[20, 20]);
        let config = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
        mine.iter().map(|variable| variable.square().sum(Kind::Float)).sum::<Tensor>().backward();
        AdamW::new(&flat, config).step(&flat, &[1e-3, 0.0], 1, None);
        // The first update of Adam is the learning rate times the sign of the gradient.
        let moved = (&mine[0] - &theirs[0]).abs();
        assert!((moved.max().double_value(&[]) - 1e-3).abs() < 1e-5 && (moved.min().double_value(&[]) - 1e-3).abs() < 1e-5);
        assert_eq!((&mine[1] - &theirs[1]).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn clipping_scales_down_and_never_up() {
        let gradients = Tensor::from_slice(&[3.0_f32, 4.0]);
        let factor = |largest: f64| clip_factor(&gradients, largest).1.map(|factor| factor.double_value(&[]));
        assert!((clip_factor(&gradients, 1.0).0.double_value(&[]) - 5.0).abs() < 1e-6);
        assert!((factor(1.0).unwrap() - 0.2).abs() < 1e-6);
        assert_eq!(factor(10.0), Some(1.0));
        assert_eq!(factor(0.0), None);
    }
}
