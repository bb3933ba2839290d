//! AdamW (Loshchilov and Hutter, 2019) as one kernel over whole lists of tensors, with loss scaling inside.

use tch::Tensor;

use crate::error::{Result, ShimError, check};
use crate::ffi::{self, pointer_or_null};

/// The learning rate of one update.
#[derive(Debug, Clone, Copy)]
pub enum LearningRate<'a> {
    /// A number, baked into the kernel's launch.
    Value(f64),
    /// One f32 element: a captured graph reads it anew at each replay.
    Tensor(&'a Tensor),
}

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moments.
    pub beta1: f64,
    /// Decay of the second moments.
    pub beta2: f64,
    /// Decay of the parameters per unit of learning rate, decoupled from the gradient.
    pub weight_decay: f64,
    /// Added to the root of the second moments.
    pub epsilon: f64,
}

/// The tensors of one update, in lists of one length. A list may as well be one long flat tensor: the kernel splits it.
#[derive(Debug, Clone, Copy)]
pub struct AdamWTensors<'a> {
    /// Updated in place.
    pub parameters: &'a [Tensor],
    /// Of the shape, strides, kind and device of the parameters. Divided by the gradient scale in place, where there is one.
    pub gradients: &'a [Tensor],
    /// First moments, as the gradients.
    pub exp_avg: &'a [Tensor],
    /// Second moments, as the gradients.
    pub exp_avg_sq: &'a [Tensor],
    /// How many updates each parameter has had: one f32 element each, on the parameter's device, each a tensor of its own. Counted on
    /// here, except for an update that is skipped.
    pub steps: &'a [Tensor],
}

/// Loss scaling: both are tensors of one f32 element, on the device of the parameters, so that nothing waits for the device.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossScaling<'a> {
    /// The gradients are divided by it: by what the loss was multiplied with.
    pub grad_scale: Option<&'a Tensor>,
    /// One where a gradient is infinite or no number, otherwise zero: one skips the update as a whole.
    pub found_inf: Option<&'a Tensor>,
}

/// One update.
///
/// # Errors
/// Lists of different lengths; shapes, kinds or devices that do not fit; a kind that the kernel does not know.
pub fn fused_adamw(tensors: AdamWTensors, learning_rate: LearningRate, adamw: AdamW, scaling: LossScaling) -> Result<()> {
    let AdamWTensors { parameters, gradients, exp_avg, exp_avg_sq, steps } = tensors;
    let lists = [parameters, gradients, exp_avg, exp_avg_sq, steps];
    let count = parameters.len();
    if lists.iter().any(|list| list.len() != count) {
        let message = format!("lists of different lengths: {:?}", lists.map(<[Tensor]>::len));
        return Err(ShimError::Argument { call: "fused_adamw", message });
    }
    let pointers: Vec<_> = lists.into_iter().flatten().map(ffi::pointer).collect();
    let (value, tensor) = match learning_rate {
        LearningRate::Value(value) => (value, None),
        LearningRate::Tensor(tensor) => (0.0, Some(tensor)),
    };
    let AdamW { beta1, beta2, weight_decay, epsilon } = adamw;
    // SAFETY: five times `count` live tensors, and tensors or null as the function takes them.
    check("fused_adamw", unsafe {
        ffi::shim_fused_adamw(
            pointers.as_ptr(),
            count,
            value,
            pointer_or_null(tensor),
            beta1,
            beta2,
            weight_decay,
            epsilon,
            pointer_or_null(scaling.grad_scale),
            pointer_or_null(scaling.found_inf),
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind};

    const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.99, weight_decay: 0.1, epsilon: 1e-8 };
    const RATE: f64 = 1e-2;

    /// Parameters, gradients, first and second moments, and steps, one list each.
    struct State([Vec<Tensor>; 5]);

    impl State {
        /// Long and short, with values in no order.
        fn new() -> Self {
            let values = |length: i64| (Tensor::arange(length, (Kind::Float, Device::Cpu)) * 0.7).sin();
            let parameters = [values(100_003), values(7)];
            let zeros = || parameters.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
            let steps = parameters.iter().map(|_| Tensor::zeros([1], (Kind::Float, Device::Cpu))).collect();
            Self([parameters.iter().map(Tensor::copy).collect(), zeros(), zeros(), zeros(), steps])
        }

        /// Sets the gradients for update number `update`, multiplied by `scale`.
        fn set_gradients(&mut self, update: i32, scale: f64) {
            let [parameters, gradients, ..] = &mut self.0;
            for (parameter, gradient) in parameters.iter().zip(gradients) {
                gradient.copy_(&((parameter * f64::from(update) * 3.0).cos() * scale));
            }
        }

        fn update(&self, rate: LearningRate, scaling: LossScaling) -> Result<()> {
            let [parameters, gradients, exp_avg, exp_avg_sq, steps] = &self.0;
            fused_adamw(AdamWTensors { parameters, gradients, exp_avg, exp_avg_sq, steps }, rate, ADAMW, scaling)
        }

        fn parameters(&self) -> &[Tensor] {
            &self.0[0]
        }
    }

    fn difference(left: &[Tensor], right: &[Tensor]) -> f64 {
        left.iter().zip(right).map(|(left, right)| (left - right).abs().max().double_value(&[])).fold(0.0, f64::max)
    }

    fn float(value: f64) -> Tensor {
        Tensor::from_slice(&[value as f32])
    }

    #[test]
    fn equals_the_library_adamw() {
        let mut state = State::new();
        let store = nn::VarStore::new(Device::Cpu);
        let theirs: Vec<_> = state
            .parameters()
            .iter()
            .enumerate()
            .map(|(index, value)| store.root().var_copy(&format!("v{index}"), value))
            .collect();
        let config =
            nn::AdamW { beta1: ADAMW.beta1, beta2: ADAMW.beta2, wd: ADAMW.weight_decay, eps: ADAMW.epsilon, amsgrad: false };
        let mut reference = config.build(&store, RATE).unwrap();
        for update in 1..=5 {
            state.set_gradients(update, 1.0);
            // The library's parameters are given the same gradients: those of a product.
            reference.zero_grad();
            theirs
                .iter()
                .zip(&state.0[1])
                .map(|(theirs, gradient)| (theirs * gradient).sum(Kind::Float))
                .sum::<Tensor>()
                .backward();
            state.update(LearningRate::Value(RATE), LossScaling::default()).unwrap();
            reference.step();
        }
        let difference = difference(state.parameters(), &theirs);
        assert!(difference < 1e-6, "{difference}");
        assert_eq!(state.0[4][0].double_value(&[0]), 5.0);
    }

    #[test]
    fn gradients_are_divided_by_the_scale_and_the_rate_may_be_a_tensor() {
        let (mut plain, mut scaled) = (State::new(), State::new());
        let (scale, rate, fine) = (float(1024.0), float(RATE), float(0.0));
        for update in 1..=3 {
            plain.set_gradients(update, 1.0);
            scaled.set_gradients(update, 1024.0);
            plain.update(LearningRate::Value(RATE), LossScaling::default()).unwrap();
            let scaling = LossScaling { grad_scale: Some(&scale), found_inf: Some(&fine) };
            scaled.update(LearningRate::Tensor(&rate), scaling).unwrap();
            assert!(difference(&plain.0[1], &scaled.0[1]) < 1e-6, "unscaled in place");
        }
        let difference = difference(plain.parameters(), scaled.parameters());
        assert!(difference < 1e-6, "{difference}");
        assert_eq!(scaled.0[4][1].double_value(&[0]), 3.0);
    }

    #[test]
    fn an_overflow_skips_the_update_and_its_count() {
        let mut state = State::new();
        state.set_gradients(1, 1.0);
        state.update(LearningRate::Value(RATE), LossScaling::default()).unwrap();
        let before: Vec<Vec<_>> = state.0.iter().map(|list| list.iter().map(Tensor::copy).collect()).collect();
        let (scale, overflow) = (float(65536.0), float(1.0));
        let _ = state.0[1][0].get(17).fill_(f64::INFINITY);
        state.update(LearningRate::Value(RATE), LossScaling { grad_scale: Some(&scale), found_inf: Some(&overflow) }).unwrap();
        for part in [0, 2, 3, 4] {
            assert_eq!(difference(&state.0[part], &before[part]), 0.0, "list {part}");
        }
    }

    #[test]
    fn says_what_does_not_fit() {
        let mut state = State::new();
        state.0[2][1] = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let error = state.update(LearningRate::Value(RATE), LossScaling::default()).unwrap_err().to_string();
        assert!(error.contains("parameter 1") && error.contains("[8]"), "{error}");
        state.0[2].pop();
        let error = state.update(LearningRate::Value(RATE), LossScaling::default()).unwrap_err().to_string();
        assert!(error.contains("[2, 2, 1, 2, 2]"), "{error}");
    }
}
