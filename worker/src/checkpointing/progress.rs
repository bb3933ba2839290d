//! What the training thread and the thread that writes tell each other: how far a save is, and how the last ones ended.

use super::CheckpointingError;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// So many saves may fail in a row, and training goes on: the disk may be made room on, the store may come back, and until then a run
/// that was ended would only do steps again.
const FAILURES_IN_A_ROW: u32 = 3;
/// How long the others' shares are waited for when this worker is about to end because of an error.
const SHARES_AT_THE_END: Duration = Duration::from_secs(60);

/// How far the save is that is under way, and how the last one ended.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
    closing: OnceLock<Instant>,
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// Why the last save failed, if it did, and of which step it was.
    failure: Option<(u64, CheckpointingError)>,
    in_a_row: u32,
    /// Whether the failure is one that training must not go on after.
    fatal: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// The tensors are still being read.
    Copying,
    Writing,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, stage: Stage) {
        self.lock().stage = stage;
        self.changed.notify_all();
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Waits while the save is in one of `stages`.
    pub(super) fn wait_while(&self, stages: &[Stage]) {
        let waited = self.changed.wait_while(self.lock(), |state| stages.contains(&state.stage));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        (state.failure, state.in_a_row) = (None, 0);
    }

    /// The save of `step` failed; one that is `fatal` is the last. Returns why, if training goes on.
    pub(super) fn failed(&self, step: u64, error: CheckpointingError, fatal: bool) -> Option<String> {
        let mut state = self.lock();
        state.in_a_row += 1;
        state.fatal |= fatal || state.in_a_row >= FAILURES_IN_A_ROW;
        let cause = (!state.fatal).then(|| error.to_string());
        state.failure = Some((step, error));
        cause
    }

    /// The failure that training must not go on after, if there was one.
    pub(super) fn take_fatal(&self) -> Option<CheckpointingError> {
        let mut state = self.lock();
        let (_, error) = if state.fatal { state.failure.take()? } else { return None };
        Some(match state.in_a_row {
            0 | 1 => error,
            times => CheckpointingError::Again { times, cause: Box::new(error) },
        })
    }

    /// The failure of the last save, if it failed.
    pub(super) fn take_failure(&self) -> Option<CheckpointingError> {
        let (step, cause) = self.lock().failure.take()?;
        Some(CheckpointingError::Last { step, cause: Box::new(cause) })
    }

    /// From now on nobody waits long for anybody: this worker ends.
    pub(super) fn close(&self) {
        let _ = self.closing.set(Instant::now());
    }

    /// Whether the shares of the others have been waited for long enough.
    pub(super) fn is_too_long(&self, waited: Duration, limit: Duration) -> bool {
        waited > limit || self.closing.get().is_some_and(|since| since.elapsed() > SHARES_AT_THE_END)
    }
}

/// Sets the stage back when a save is over, also by a panic: nobody shall wait for ever.
pub(super) struct Over<'a>(pub(super) &'a Progress, pub(super) u64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed(self.1, CheckpointingError::Writer("it panicked".into()), true);
        }
        self.0.set(Stage::Idle);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fail(progress: &Progress, step: u64) -> Option<String> {
        progress.failed(step, CheckpointingError::Writer("full".into()), false)
    }

    #[test]
    fn training_goes_on_after_a_failure_and_not_after_three_in_a_row() {
        let progress = Progress::default();
        for step in [1, 2] {
            assert!(fail(&progress, step).is_some_and(|cause| cause.contains("full")));
            assert!(progress.take_fatal().is_none());
        }
        progress.succeeded();
        assert!(progress.take_failure().is_none(), "that is over");
        for step in [4, 5, 6] {
            assert!(progress.take_fatal().is_none());
            assert_eq!(fail(&progress, step).is_none(), step == 6, "the failure of the worker itself tells it then");
        }
        let error = progress.take_fatal().unwrap().to_string();
        assert!(error.contains("3 checkpoints in a row") && error.contains("full"), "{error}");
    }

    #[test]
    fn the_last_checkpoint_has_to_be_there() {
        let progress = Progress::default();
        fail(&progress, 40);
        let error = progress.take_failure().unwrap().to_string();
        assert!(error.contains("step 40") && error.contains("full"), "{error}");
        assert!(progress.take_failure().is_none(), "told once");
    }
}
