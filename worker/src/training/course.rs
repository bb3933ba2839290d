//! What the training loop remembers from step to step, and what follows from it: whether to save, and how fast it goes.

use super::laps::Laps;
use super::run::Ended;
use super::window::Window;
use crate::jobs::JobContext;
use common::config::{Config, WhenBusy};
use common::control::Spent;
use std::time::{Duration, Instant};

/// What the loop remembers from step to step.
pub(super) struct Course {
    pub(super) config: Config,
    pub(super) ended: Ended,
    pub(super) window: Window,
    pub(super) laps: Laps,
    /// What had been spent at the last record, and how long the communication thread had been busy.
    pub(super) booked: (Spent, Duration),
    /// When the first step of this generation was done, and which one it was.
    pub(super) since: Option<(Instant, u64)>,
    /// When the last checkpoint was saved, or this generation began.
    pub(super) saved: Instant,
    /// After which step that was, if this generation has saved.
    pub(super) saved_step: Option<u64>,
    /// What the workers wish, as far as it is known.
    pub(super) wished: Wished,
}

/// Which wishes any worker has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wished {
    pub(super) save: bool,
    pub(super) busy: bool,
}

impl Course {
    /// Before the first step of a generation, after `first` steps of those before it.
    pub(super) fn new(config: &Config, first: u64, context: &JobContext) -> Self {
        Self {
            ended: Ended { step: first, stopped: false, loss: None, images_per_second: None },
            window: Window::new(config.train.not_finite),
            laps: Laps::default(),
            booked: (context.reporter.activity().pulse().spent, context.collective.busy()),
            since: None,
            saved: Instant::now(),
            saved_step: None,
            wished: Wished::default(),
            config: config.clone(),
        }
    }

    /// On rank 0: whether the time between checkpoints is over.
    pub(super) fn is_time_to_save(&self, context: &JobContext) -> bool {
        let minutes = self.config.checkpoint.every_minutes;
        context.place.is_leader() && minutes > 0.0 && self.saved.elapsed().as_secs_f64() >= 60.0 * minutes
    }

    /// Whether the state after the newest step was saved.
    pub(super) fn has_saved(&self) -> bool {
        self.saved_step == Some(self.ended.step)
    }

    /// Whether the state after this step is to be saved; all workers come to the same.
    pub(super) fn is_to_save(&self) -> bool {
        let (step, checkpoint) = (self.ended.step, &self.config.checkpoint);
        let must = self.ended.stopped || step == self.config.train.steps || self.wished.save;
        let due = step.is_multiple_of(checkpoint.every_steps.max(1));
        if due && !must && self.wished.busy && checkpoint.when_busy == WhenBusy::Skip {
            tracing::warn!(step, "no checkpoint: the one before is still being saved (checkpoint.when_busy = \"skip\")");
            return false;
        }
        must || due
    }

    /// Counts a step of `images` images into the rate.
    pub(super) fn count(&mut self, images: usize) {
        let (since, step) = *self.since.get_or_insert((Instant::now(), self.ended.step));
        let images = self.ended.step.saturating_sub(step) * images as u64;
        self.ended.images_per_second = (images > 0).then(|| images as f64 / since.elapsed().as_secs_f64());
    }
}
