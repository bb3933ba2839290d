//! Trying out what libtorch may refuse: its Rust binding does that by a panic.

use crate::jobs::libtorch_cause;
use crate::training::step::StepError;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is trying something out: a panic is then an answer, which somebody waits for, and no bug to report.
pub fn is_attempt() -> bool {
    UNDER_WAY.get()
}

/// Does `work`, of which a panic is an error.
///
/// # Errors
/// Those of `work`, and its panics.
pub(super) fn attempt<T>(work: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
    // Only a guard puts back, after a panic, whether gradients are recorded.
    let recording = tch::no_grad_guard();
    let outer = UNDER_WAY.replace(true);
    let result = catch_unwind(AssertUnwindSafe(|| tch::with_grad(work)));
    UNDER_WAY.set(outer);
    drop(recording);
    result.unwrap_or_else(|panic| Err(StepError::Libtorch(words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic without words");
    libtorch_cause(text).unwrap_or(text).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn what_libtorch_refuses_is_an_error_and_gradients_are_recorded_as_before() {
        let parameter = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let refused: Result<(), StepError> = attempt(|| {
            assert!(is_attempt() && (&parameter * 2.0).requires_grad());
            let _ = tch::no_grad(|| parameter.matmul(&Tensor::ones([2, 2], (Kind::Float, Device::Cpu))));
            Ok(())
        });
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("shapes cannot be multiplied") && !text.contains("frame #"), "{text}");
        assert!(!is_attempt() && (&parameter * 2.0).requires_grad());
        assert_eq!(attempt(|| Ok(3)).unwrap(), 3);
    }
}
