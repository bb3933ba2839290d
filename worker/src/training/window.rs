//! The figures of the steps since the last record, read back from the device all at once.

use common::config::NotFinitePolicy;
use tch::Tensor;
use thiserror::Error;

/// So many skipped steps in a row are no accident any more.
const MOST_SKIPPED: usize = 100;

/// The loss or the gradients of a step are no numbers any more.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "step {step}: {figure} is not finite{more}; lower the learning rates of train.groups or raise their warm-up, then resume from the \
     last checkpoint (or let train.not_finite = \"skip\" or \"back\" get over it)"
)]
pub struct NotFinite {
    /// The first such step, counted from 1.
    pub step: u64,
    /// `the loss` or `the gradient norm`.
    pub figure: &'static str,
    /// What was tried.
    pub more: String,
}

/// Figures over the steps since the last record.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Mean loss of the steps that changed something.
    pub loss: f64,
    /// Gradient norm of the last of them, before clipping.
    pub grad_norm: f64,
    /// Number of steps, with those that were skipped.
    pub steps: usize,
}

/// What a window held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Closed {
    /// None if no step has any.
    pub figures: Option<Figures>,
    /// Steps that changed nothing, counted from 1.
    pub skipped: Vec<u64>,
}

/// Collects steps until somebody wants to see figures.
pub struct Window {
    policy: NotFinitePolicy,
    /// Steps done, loss, gradient norm.
    steps: Vec<(u64, Tensor, Tensor)>,
    /// Skipped steps since the last one that was not.
    in_a_row: usize,
}

impl Window {
    /// An empty window. Unless the policy is to skip them, steps without a number are errors.
    pub fn new(policy: NotFinitePolicy) -> Self {
        Self { policy, steps: Vec::new(), in_a_row: 0 }
    }

    /// Adds step number `step` (from 1).
    pub fn push(&mut self, step: u64, loss: Tensor, grad_norm: Tensor) {
        self.steps.push((step, loss, grad_norm));
    }

    /// What was collected; a new window begins.
    ///
    /// # Errors
    /// A loss or gradient norm that is not finite, naming the first step that has one; where such steps are skipped, a hundred in a row.
    pub fn close(&mut self) -> Result<Closed, NotFinite> {
        let steps = std::mem::take(&mut self.steps);
        let (mut losses, mut last_norm, mut skipped) = (0.0, f64::NAN, Vec::new());
        for (step, loss, grad_norm) in &steps {
            let (loss, grad_norm) = (loss.double_value(&[]), grad_norm.double_value(&[]));
            let odd = [("the loss", loss), ("the gradient norm", grad_norm)].into_iter().find(|(_, value)| !value.is_finite());
            let Some((figure, _)) = odd else {
                (losses, last_norm, self.in_a_row) = (losses + loss, grad_norm, 0);
                continue;
            };
            if self.policy != NotFinitePolicy::Skip {
                return Err(NotFinite { step: *step, figure, more: String::new() });
            }
            skipped.push(*step);
            self.in_a_row += 1;
            if self.in_a_row >= MOST_SKIPPED {
                let more = format!(", as in the {} steps before it, which were skipped", MOST_SKIPPED - 1);
                return Err(NotFinite { step: *step, figure, more });
            }
        }
        let counted = steps.len() - skipped.len();
        let figures = (counted > 0).then(|| Figures { loss: losses / counted as f64, grad_norm: last_norm, steps: steps.len() });
        Ok(Closed { figures, skipped })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn window(policy: NotFinitePolicy, steps: &[(u64, f64, f64)]) -> Window {
        let mut window = Window::new(policy);
        for &(step, loss, norm) in steps {
            window.push(step, Tensor::from(loss), Tensor::from(norm));
        }
        window
    }

    const BROKEN: [(u64, f64, f64); 4] = [(3, 1.0, 2.0), (4, 1.0, f64::INFINITY), (5, f64::NAN, f64::NAN), (6, 2.0, 4.0)];

    #[test]
    fn means_over_the_window_and_the_first_step_without_a_number() {
        let mut fine = window(NotFinitePolicy::Stop, &[(1, 1.0, 3.0), (2, 2.0, 4.0)]);
        assert_eq!(fine.close().unwrap().figures, Some(Figures { loss: 1.5, grad_norm: 4.0, steps: 2 }));
        assert_eq!(fine.close(), Ok(Closed::default()), "a closed window is empty");
        let error = window(NotFinitePolicy::Stop, &BROKEN).close().unwrap_err();
        assert_eq!((error.step, error.figure), (4, "the gradient norm"));
    }

    #[test]
    fn skipped_steps_do_not_count_until_they_are_too_many() {
        let closed = window(NotFinitePolicy::Skip, &BROKEN).close().unwrap();
        assert_eq!(closed, Closed { figures: Some(Figures { loss: 1.5, grad_norm: 4.0, steps: 4 }), skipped: vec![4, 5] });
        let nothing = |from: u64, to: u64| (from..to).map(|step| (step, f64::NAN, f64::NAN)).collect::<Vec<_>>();
        let mut long = window(NotFinitePolicy::Skip, &nothing(0, 60));
        assert_eq!(long.close().unwrap().figures, None);
        for (step, loss, norm) in nothing(60, 100) {
            long.push(step, Tensor::from(loss), Tensor::from(norm));
        }
        assert_eq!(long.close().unwrap_err().step, 99);
    }
}
