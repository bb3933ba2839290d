//! What a job's thread is doing and where its time went: written by that thread, read by the control thread for each heartbeat.

use std::ops::Add;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::messages::{Phase, Pulse, Spent};

/// The present phase of a job, and the seconds spent in each so far.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    step: u64,
    phase: Phase,
    since: Instant,
    spent: Spent,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(State { step: 0, phase: Phase::Starting, since: Instant::now(), spent: Spent::default() }))
    }
}

impl Activity {
    /// The job's thread begins something else. Returns what it did before, so that a phase within a phase can give it back.
    pub fn enter(&self, phase: Phase) -> Phase {
        let mut state = self.lock();
        let now = Instant::now();
        let seconds = (now - state.since).as_secs_f64();
        let before = state.phase;
        *state.spent.of(before) += seconds;
        state.since = now;
        state.phase = phase;
        before
    }

    /// `step` units of work are done.
    pub fn step(&self, step: u64) {
        self.lock().step = step;
    }

    /// The state as of now.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        let state = self.lock();
        let phase_seconds = state.since.elapsed().as_secs_f64();
        let (step, phase, mut spent) = (state.step, state.phase, state.spent);
        *spent.of(phase) += phase_seconds;
        drop(state);
        Pulse { step, phase, phase_seconds, spent }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    /// The seconds of one phase.
    pub fn of(&mut self, phase: Phase) -> &mut f64 {
        match phase {
            Phase::Starting | Phase::Connecting => &mut self.starting,
            Phase::Data => &mut self.data,
            Phase::Compute => &mut self.compute,
            Phase::Collective => &mut self.collective,
            Phase::Checkpoint => &mut self.checkpoint,
            Phase::Evaluate => &mut self.evaluate,
        }
    }

    /// The sum over all phases.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.starting + self.data + self.compute + self.collective + self.checkpoint + self.evaluate
    }

    /// What was spent since an earlier state.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            starting: self.starting - earlier.starting,
            data: self.data - earlier.data,
            compute: self.compute - earlier.compute,
            collective: self.collective - earlier.collective,
            checkpoint: self.checkpoint - earlier.checkpoint,
            evaluate: self.evaluate - earlier.evaluate,
        }
    }
}

impl Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            starting: self.starting + other.starting,
            data: self.data + other.data,
            compute: self.compute + other.compute,
            collective: self.collective + other.collective,
            checkpoint: self.checkpoint + other.checkpoint,
            evaluate: self.evaluate + other.evaluate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_is_booked_under_one_phase() {
        let started = Instant::now();
        let activity = Activity::default();
        activity.step(7);
        assert_eq!(activity.enter(Phase::Collective), Phase::Starting);
        let first = activity.pulse();
        assert_eq!((first.step, first.phase), (7, Phase::Collective));
        activity.enter(Phase::Compute);
        let last = activity.pulse();
        assert!(last.spent.starting > 0.0 && last.spent.data == 0.0);
        assert!(last.spent.total() <= started.elapsed().as_secs_f64());
        assert!((last.spent.since(&first.spent).total() - (last.spent.total() - first.spent.total())).abs() < 1e-9);
    }
}
