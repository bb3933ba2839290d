//! AdamW (Loshchilov and Hutter, 2019) over flat tensors, and clipping by the global norm.

use super::parameters::FlatParameters;
use common::config::OptimizerConfig;
use tch::{Device, Kind, Tensor, no_grad};
use torch_shim::optimizer::{AdamWTensors, LossScaling};
use torch_shim::{LearningRate, ShimError, fused_adamw};

/// AdamW: the moments of all parameters, and the update.
pub struct AdamW {
    config: OptimizerConfig,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// How many updates there were, f32 `[1]`, where the update reads it and counts on.
    updates: Tensor,
}

impl AdamW {
    /// Zero moments for `parameters`.
    pub fn new(parameters: &FlatParameters, config: OptimizerConfig) -> Self {
        let updates = Tensor::zeros([1], (Kind::Float, parameters.values().device()));
        Self { config, exp_avg: parameters.zeros(), exp_avg_sq: parameters.zeros(), updates }
    }

    /// First moments, `[len]`, in the layout of the parameters.
    pub fn exp_avg(&self) -> &Tensor {
        &self.exp_avg
    }

    /// Second moments, `[len]`, in the layout of the parameters.
    pub fn exp_avg_sq(&self) -> &Tensor {
        &self.exp_avg_sq
    }

    /// An update with one learning rate per group, `[groups]`, after `done` others, `[1]`. The gradients are divided by `divisor`, and
    /// nothing happens where `skip` is 1: tensors of one element. The host reads none of them. Learning rates are of [`rate_kind`].
    ///
    /// # Errors
    /// libtorch refuses the tensors.
    pub fn step(
        &mut self,
        parameters: &FlatParameters,
        learning_rates: &Tensor,
        done: &Tensor,
        divisor: Option<&Tensor>,
        skip: Option<&Tensor>,
    ) -> Result<(), ShimError> {
        let OptimizerConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let adamw = torch_shim::AdamW { beta1, beta2, weight_decay, epsilon };
        let gradients = parameters.gradients();
        for (group, (_, range)) in parameters.groups().iter().enumerate() {
            let part = |flat: &Tensor| [flat.narrow(0, range.start, range.end - range.start)];
            // The checkpoint's step is the only counter there is: what a skipped update does not count is set right here.
            no_grad(|| self.updates.copy_(done));
            let tensors = AdamWTensors {
                parameters: &part(parameters.values()),
                gradients: &part(&gradients),
                exp_avg: &part(&self.exp_avg),
                exp_avg_sq: &part(&self.exp_avg_sq),
                steps: &[self.updates.shallow_clone()],
            };
            let scaling = LossScaling { grad_scale: divisor, found_inf: skip };
            let learning_rate = learning_rates.narrow(0, group as i64, 1);
            fused_adamw(tensors, LearningRate::Tensor(&learning_rate), adamw, scaling)?;
        }
        Ok(())
    }
}

/// The kind in which an update on `device` reads its learning rates: f64, as the host has them, but on a GPU f32, the only one that the
/// kernel there knows.
pub fn rate_kind(device: Device) -> Kind {
    if device.is_cuda() { Kind::Float } else { Kind::Double }
}

/// What clipping by the global norm found.
pub struct Clipped {
    /// The norm before.
    pub norm: Tensor,
    /// What brings it down to the largest one allowed; none without clipping.
    pub divisor: Option<Tensor>,
}

/// Clipping of `gradients` to the global norm `largest`; none when that is 0. All stay tensors of one element: nothing waits for the
/// device.
pub fn clip(gradients: &Tensor, largest: f64) -> Clipped {
    no_grad(|| {
        let norm = gradients.norm();
        let divisor = (largest > 0.0).then(|| ((&norm + 1e-6) / largest).clamp_min(1.0).to_kind(Kind::Float));
        Clipped { norm, divisor }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::training::parameters::Group;
    use tch::nn::{self, OptimizerConfig as _};

    /// More than one thread's share, and no multiple of any vector's length.
    const LENGTH: i64 = (1 << 17) + 77;

    fn numbers(values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
    }

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
        let (mine, flat, store, theirs) = twins(&[LENGTH, 31]);
        let config = OptimizerConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut adamw = AdamW::new(&flat, config);
        let mut reference = nn::AdamW { beta1: 0.9, beta2: 0.99, wd: 0.1, eps: 1e-8, amsgrad: false }.build(&store, 1e-2).unwrap();
        let loss =
            |variables: &[Tensor]| (&variables[0] - 0.5).square().mean(Kind::Float) + (&variables[1] * 3.0).sin().sum(Kind::Float);
        for update in 1..=5 {
            flat.zero_gradients();
            loss(&mine).backward();
            adamw.step(&flat, &numbers(&[1e-2, 1e-2]), &numbers(&[f64::from(update - 1)]), None, None).unwrap();
            reference.zero_grad();
            loss(&theirs).backward();
            reference.step();
        }
        for (mine, theirs) in mine.iter().zip(&theirs) {
            let difference = (mine - theirs).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{difference}");
        }
        let padding = flat.values().narrow(0, LENGTH, 3).abs().sum(Kind::Float).double_value(&[]);
        assert_eq!(padding, 0.0);
    }

    #[test]
    fn every_group_has_its_learning_rate() {
        let (mine, flat, _store, theirs) = twins(&[20, 20]);
        let config = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
        mine.iter().map(|variable| variable.square().sum(Kind::Float)).sum::<Tensor>().backward();
        AdamW::new(&flat, config).step(&flat, &numbers(&[1e-3, 0.0]), &numbers(&[0.0]), None, None).unwrap();
        // The first update of Adam is the learning rate times the sign of the gradient.
        let moved = (&mine[0] - &theirs[0]).abs();
        assert!((moved.max().double_value(&[]) - 1e-3).abs() < 1e-5 && (moved.min().double_value(&[]) - 1e-3).abs() < 1e-5);
        assert_eq!((&mine[1] - &theirs[1]).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn clipping_scales_down_and_never_up() {
        let gradients = Tensor::from_slice(&[3.0_f32, 4.0]);
        let divisor = |largest: f64| clip(&gradients, largest).divisor.map(|divisor| divisor.double_value(&[]));
        assert!((clip(&gradients, 1.0).norm.double_value(&[]) - 5.0).abs() < 1e-6);
        assert!((divisor(1.0).unwrap() - 5.0).abs() < 1e-5);
        assert_eq!(divisor(10.0), Some(1.0));
        assert!(divisor(0.0).is_none());
    }

    #[test]
    fn an_update_that_is_to_be_skipped_changes_nothing() {
        let (mine, flat, _store, _) = twins(&[40]);
        let mut adamw = AdamW::new(&flat, OptimizerConfig::default());
        let mut update = |skip: f32, gradient: f64| {
            let _ = flat.gradients().fill_(gradient);
            let (rates, done) = (numbers(&[1e-2]), numbers(&[0.0]));
            adamw.step(&flat, &rates, &done, Some(&Tensor::from(2.0_f32)), Some(&Tensor::from(skip))).unwrap();
            (mine[0].copy(), adamw.exp_avg().copy(), adamw.exp_avg_sq().copy())
        };
        let before = update(0.0, 1.0);
        assert!((before.1.double_value(&[0]) - 0.05).abs() < 1e-6, "half of the gradient counts");
        assert_eq!(update(1.0, f64::NAN), before);
        assert_ne!(update(0.0, 1.0), before);
    }
}
