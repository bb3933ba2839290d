//! How fast steps follow each other: what tells a hanging step from a slow one, and a slow rank from its peers.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use common::control::{Phase, Pulse, Spent};

use super::Time;
use super::workers::Workers;

/// A step may take this many times as long as the longest before it.
const FACTOR: u32 = 5;
/// The first two steps of a generation, of which the second is the first to be measured, saving a checkpoint, and an evaluation may take
/// this long.
const SLOW: Duration = Duration::from_secs(600);
/// What a rank did lately is what it did over this long.
const WINDOW: Duration = Duration::from_secs(30);
/// After training went back, words about steps before that may still be on their way.
const ECHO: Duration = Duration::from_secs(3);
/// A rank whose steps take this many times the median rank's keeps the others waiting.
const STRAGGLER: f64 = 1.5;

/// When steps were completed by all ranks, and what each rank did lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    step: Option<u64>,
    advanced: Time,
    longest: Duration,
    /// When training last went back to an earlier step.
    went_back: Option<Time>,
    history: HashMap<usize, VecDeque<(Time, Pulse)>>,
}

/// What one rank did lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Recent {
    /// Seconds per phase.
    pub(crate) spent: Spent,
    /// Seconds of its own work (computing and waiting for data) per step, if it has done any.
    pub(crate) per_step: Option<f64>,
}

impl Pace {
    /// Of a generation that is complete as of `now`.
    pub(super) fn start(now: Time) -> Self {
        Self { advanced: now, ..Self::default() }
    }

    /// The first step of the generation is done. It loads libraries and fills caches: how long it took says nothing about the others.
    pub(super) fn begin(&mut self, step: u64, now: Time) {
        (self.step, self.advanced) = (Some(step), now);
    }

    /// Whether the first step is done.
    pub(super) fn has_begun(&self) -> bool {
        self.step.is_some()
    }

    /// Steps that have been computed.
    pub(super) fn step(&self) -> u64 {
        self.step.unwrap_or(0)
    }

    /// Takes note that somebody has done `step` steps, and so all ranks have computed that step.
    pub(super) fn observe(&mut self, step: u64, now: Time) {
        let echo = self.went_back.is_some_and(|then| now.saturating_sub(then) < ECHO);
        if !echo && self.step.is_some_and(|before| step > before) {
            self.longest = self.longest.max(now.saturating_sub(self.advanced));
            (self.step, self.advanced) = (Some(step), now);
        }
    }

    /// All ranks go back to `step` and go on from there.
    pub(super) fn go_back(&mut self, step: u64, now: Time) {
        if self.has_begun() {
            (self.step, self.advanced, self.went_back) = (Some(step), now, Some(now));
        }
    }

    /// The longest time between two completed steps so far.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }

    /// For how long no step was completed.
    pub(super) fn waited(&self, now: Time) -> Duration {
        now.saturating_sub(self.advanced)
    }

    /// How long the present step may take.
    pub(super) fn deadline(&self, least: Duration, workers: &Workers) -> Duration {
        let busy = workers.iter().any(|worker| matches!(worker.pulse.phase, Phase::Checkpoint | Phase::Evaluate));
        let unknown = !self.has_begun() || self.longest.is_zero();
        if unknown || busy { SLOW.max(least) } else { (self.longest * FACTOR).max(least) }
    }

    /// Keeps a heartbeat.
    pub(super) fn heard(&mut self, rank: usize, pulse: Pulse, now: Time) {
        let history = self.history.entry(rank).or_default();
        history.push_back((now, pulse));
        while history.len() > 2 && history.front().is_some_and(|(then, _)| now.saturating_sub(*then) > WINDOW) {
            history.pop_front();
        }
    }

    /// What `rank` did lately.
    pub(super) fn recent(&self, rank: usize) -> Recent {
        let Some((first, last)) = self.history.get(&rank).and_then(|history| Some((history.front()?.1, history.back()?.1))) else {
            return Recent::default();
        };
        let spent = last.spent.since(&first.spent);
        let steps = last.step.saturating_sub(first.step);
        let own = spent.compute + spent.data;
        Recent { spent, per_step: (steps > 0).then(|| own / steps as f64) }
    }

    /// The rank whose steps take much longer than the median rank's, and how many times as long. Only if the others are seen
    /// waiting.
    pub(super) fn straggler(&self) -> Option<(usize, f64)> {
        let mut paces: Vec<(usize, f64)> =
            self.history.keys().filter_map(|rank| Some((*rank, self.recent(*rank).per_step?))).collect();
        if paces.len() < 2 {
            return None;
        }
        paces.sort_by(|a, b| a.1.total_cmp(&b.1));
        let median = paces[paces.len() / 2 - usize::from(paces.len().is_multiple_of(2))].1;
        let (rank, slowest) = *paces.last()?;
        let waiting = self.recent(paces[0].0).spent;
        let seen = waiting.collective > 0.1 * waiting.total() && waiting.total() > 5.0;
        (seen && median > 0.0 && slowest > STRAGGLER * median).then(|| (rank, slowest / median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(step: u64, compute: f64, collective: f64) -> Pulse {
        let spent = Spent { compute, collective, ..Spent::default() };
        Pulse { step, phase: Phase::Compute, phase_seconds: 0.0, spent }
    }

    #[test]
    fn the_deadline_is_learned_from_steps_and_not_from_the_first() {
        let (mut pace, nobody, least) = (Pace::start(Time::ZERO), Workers::expecting(1), Duration::from_secs(2));
        let seconds = Duration::from_secs;
        pace.observe(40, seconds(1));
        assert_eq!(pace.deadline(least, &nobody), SLOW, "resumed at step 40, which nobody has computed yet");
        pace.begin(41, seconds(90));
        assert_eq!(pace.deadline(least, &nobody), SLOW, "the first step took 89 s, which is not learned, and no other was seen");
        pace.observe(42, seconds(93));
        assert_eq!(pace.deadline(least, &nobody), seconds(15));
        assert_eq!(pace.waited(seconds(100)), seconds(7));
    }

    #[test]
    fn steps_done_again_count_as_getting_on_and_late_words_about_those_before_do_not() {
        let (mut pace, seconds) = (Pace::start(Time::ZERO), Duration::from_secs);
        pace.go_back(0, seconds(1));
        assert!(!pace.has_begun(), "nothing was done yet");
        pace.begin(11, seconds(10));
        pace.observe(40, seconds(20));
        pace.go_back(10, seconds(30));
        pace.observe(39, seconds(31));
        assert_eq!((pace.step(), pace.waited(seconds(32))), (10, seconds(2)));
        pace.observe(14, seconds(34));
        assert_eq!((pace.step(), pace.waited(seconds(35))), (14, seconds(1)));
        assert_eq!(pace.longest(), seconds(10));
    }

    #[test]
    fn the_rank_that_others_wait_for_is_named_and_an_even_crew_has_none() {
        let mut pace = Pace::start(Time::ZERO);
        for second in 0..40_u64 {
            for rank in 0..4 {
                let share = if rank == 2 { 0.9 } else { 0.4 };
                let elapsed = second as f64;
                pace.heard(rank, pulse(second, share * elapsed, (1.0 - share) * elapsed), Duration::from_secs(second));
            }
        }
        let (rank, factor) = pace.straggler().unwrap_or_default();
        assert_eq!(rank, 2);
        assert!((factor - 2.25).abs() < 1e-9);
        assert!((pace.recent(2).spent.compute - 27.0).abs() < 1e-9, "of the last half minute");

        let mut even = Pace::start(Time::ZERO);
        for second in 0..40_u64 {
            (0..4).for_each(|rank| {
                even.heard(rank, pulse(second, 0.5 * second as f64, 0.5 * second as f64), Duration::from_secs(second))
            });
        }
        assert_eq!(even.straggler(), None);
    }
}
