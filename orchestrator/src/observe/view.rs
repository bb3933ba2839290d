//! What the files of a job add up to at one moment: the figures that status, list and top show.

use std::time::{Duration, SystemTime};

use super::forecast::Terms;
use super::{Forecast, Observer, Queue, Standing};
use crate::coordinator::Status;
use crate::story::{Incident, Ledger, Outline, Present, Time, newest_incident, since_1970, time};

/// A job at one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// The moment.
    pub(crate) now: Time,
    /// Where it stands.
    pub(crate) standing: Standing,
    /// The journal in a nutshell.
    pub(crate) outline: Outline,
    /// The newest sign of life.
    pub(crate) sign: Option<Time>,
    /// The newest checkpoint: steps and time.
    pub(crate) checkpoint: Option<(u64, Time)>,
    /// What is to be expected, while it runs.
    pub(crate) forecast: Option<Forecast>,
    /// Where the time went; none if that was not looked at.
    pub(crate) ledger: Option<Ledger>,
    /// The newest failure.
    pub(crate) failure: Option<Incident>,
}

impl View {
    /// What `observer` has seen, now.
    pub(crate) fn of(observer: &Observer) -> Self {
        Self::at(observer, since_1970(SystemTime::now()))
    }

    /// What `observer` has seen, at some moment.
    pub(crate) fn at(observer: &Observer, now: Time) -> Self {
        let status = observer.status.as_ref();
        let outline = Outline::of(&observer.entries);
        // A clock that is ahead of ours makes the file certainly fresh.
        let standing = Standing::of(status, observer.written.map(|written| now.saturating_sub(written)), &outline, now);
        let sign = observer.written.max(outline.last);
        let alive = standing.is_alive();
        let ledger = observer.records.as_ref().and_then(|records| {
            let seen = if alive { now } else { sign.unwrap_or(now) };
            Ledger::keep(&observer.entries, records, Present { now, seen })
        });
        let terms = Terms {
            now,
            launched: outline.launched,
            first_step: outline.first_step,
            deadline: status.and_then(|status| time(status.deadline.as_deref()?)),
            checkpoint: status.and_then(|status| Duration::try_from_secs_f64(status.checkpoint_seconds?).ok()).unwrap_or_default(),
        };
        let progress = status.and_then(|status| status.progress.as_ref()).filter(|_| alive);
        Self {
            now,
            standing,
            sign,
            checkpoint: outline.checkpoint.max(status.and_then(saved)),
            forecast: progress.and_then(|progress| Forecast::of(progress, &terms)),
            ledger,
            failure: newest_incident(&observer.entries, observer.records()),
            outline,
        }
    }

    /// The Slurm job that the run waits for, or that it ran in when its coordinator vanished.
    pub(crate) fn waits_for(&self) -> Option<&str> {
        match self.standing {
            Standing::Queued => self.outline.pending.as_deref(),
            Standing::Vanished => self.outline.slurm_job.as_deref(),
            _ => None,
        }
    }

    /// What Slurm says about that job.
    pub(crate) fn ask_slurm(&self) -> Option<Queue> {
        self.waits_for().map(Queue::ask)
    }

    /// How long ago something was; nothing is in the future.
    pub(crate) fn ago(&self, time: Time) -> Duration {
        self.now.saturating_sub(time)
    }
}

/// The newest checkpoint of the launch that wrote the status.
fn saved(status: &Status) -> Option<(u64, Time)> {
    Some((status.checkpoint?, time(status.checkpoint_committed.as_deref()?)?))
}
