//! A checkpoint out of turn: asked for by somebody, and owed to them until one is committed that was begun after that.

use std::time::Duration;

use common::control::ToWorker;
use common::job::Job;
use common::journal;

use super::machine::Supervisor;
use super::{Time, Unsaved};

/// Signals of the system to many processes that come within this time are one.
const AT_ONCE: Time = Time::from_secs(5);

/// What is known of wishes for a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// The last wish that no checkpoint has met.
    owed: Option<Time>,
    /// The system's last signal.
    signalled: Option<Time>,
}

impl Wish {
    /// Whether workers that greet now have to be told.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }
}

impl Supervisor {
    /// Somebody asks for a checkpoint; `why` in words. Only training has any.
    pub(super) fn save(&mut self, why: &str, now: Time) {
        if self.options.job != Job::Train {
            return;
        }
        self.wish.owed = Some(now);
        self.record(journal::Event::SaveRequested, why);
        self.tell_all(&ToWorker::Save { reason: why.into() });
    }

    /// The system has sent SIGUSR2 to `rank`, and perhaps to all others.
    pub(super) fn save_by_signal(&mut self, rank: usize, now: Time) {
        let first = self.wish.signalled.is_none_or(|before| now.saturating_sub(before) > AT_ONCE);
        self.wish.signalled = Some(now);
        if first {
            self.save(&format!("the system has sent SIGUSR2 to rank {rank}"), now);
        }
    }

    /// A checkpoint was not saved, of which every worker may tell: those whose own share failed, and rank 0.
    pub(super) fn not_saved(&mut self, step: u64, cause: String) {
        if self.unsaved.as_ref().is_none_or(|unsaved| unsaved.step != step) {
            self.record(journal::Event::CheckpointFailed { step }, cause.clone());
            self.failed_saves += 1;
        }
        self.unsaved = Some(Unsaved { step, cause });
    }

    /// A checkpoint was committed, `seconds` after it was begun.
    pub(super) fn saved(&mut self, seconds: f64, now: Time) {
        self.unsaved = None;
        let begun = now.saturating_sub(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        if self.wish.owed.is_some_and(|asked| begun >= asked) {
            self.wish.owed = None;
        }
    }
}
