//! The figures of the steps since the last record, read back from the device all at once.

use tch::Tensor;
use thiserror::Error;

/// The loss or the gradients of a step are no numbers any more.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "step {step}: {figure} is not finite; lower the learning rates of train.groups or raise their warm-up, then resume from the last \
     checkpoint"
)]
pub struct NotFinite {
    /// The first such step, counted from 1.
    pub step: u64,
    /// `the loss` or `the gradient norm`.
    pub figure: &'static str,
}

/// Figures over the steps since the last record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Mean loss.
    pub loss: f64,
    /// Gradient norm of the last step, before clipping.
    pub grad_norm: f64,
    /// Number of steps.
    pub steps: usize,
}

/// Collects steps until somebody wants to see figures.
#[derive(Default)]
pub struct Window {
    /// Steps done, loss, gradient norm.
    steps: Vec<(u64, Tensor, Tensor)>,
}

impl Window {
    /// Adds step number `step` (from 1).
    pub fn push(&mut self, step: u64, loss: Tensor, grad_norm: Tensor) {
        self.steps.push((step, loss, grad_norm));
    }

    /// The figures, none without steps; a new window begins.
    ///
    /// # Errors
    /// A loss or gradient norm that is not finite, naming the first step that has one.
    pub fn close(&mut self) -> Result<Option<Figures>, NotFinite> {
        let window = std::mem::take(self);
        let (mut losses, mut last_norm) = (0.0, None);
        for (step, loss, grad_norm) in &window.steps {
            let (loss, grad_norm) = (loss.double_value(&[]), grad_norm.double_value(&[]));
            for (figure, value) in [("the loss", loss), ("the gradient norm", grad_norm)] {
                if !value.is_finite() {
                    return Err(NotFinite { step: *step, figure });
                }
            }
            losses += loss;
            last_norm = Some(grad_norm);
        }
        let steps = window.steps.len();
        Ok(last_norm.map(|grad_norm| Figures { loss: losses / steps as f64, grad_norm, steps }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn means_over_the_window_and_the_first_step_without_a_number() {
        let scalar = |value: f64| Tensor::from(value);
        let mut window = Window::default();
        assert_eq!(window.close(), Ok(None));
        window.push(1, scalar(1.0), scalar(3.0));
        window.push(2, scalar(2.0), scalar(4.0));
        let figures = window.close().unwrap().unwrap();
        assert_eq!(figures, Figures { loss: 1.5, grad_norm: 4.0, steps: 2 });
        window.push(3, scalar(1.0), scalar(f64::INFINITY));
        window.push(4, scalar(f64::NAN), scalar(f64::NAN));
        assert_eq!(window.close(), Err(NotFinite { step: 3, figure: "the gradient norm" }));
        assert_eq!(window.close(), Ok(None), "a closed window is empty");
    }
}
