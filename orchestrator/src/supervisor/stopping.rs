//! Why a launch stops before its job is done, and when the end of the allocation calls for it.

use std::time::Duration;

use common::control::ToWorker;
use common::journal;

use super::machine::{Phase, Supervisor};
use super::{Command, Outcome, State, Time};

/// A wish to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// `orchestrator stop`.
    Request,
    /// Slurm needs the hosts for somebody else.
    Preemption,
    /// The allocation is about to end.
    WallTime,
}

impl StopReason {
    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Request => "orchestrator stop",
            Self::Preemption => "preemption",
            Self::WallTime => "the end of the allocation",
        }
    }

    /// Whether the run is to be continued without anybody asking for it.
    pub(crate) fn is_to_be_continued(self) -> bool {
        matches!(self, Self::Preemption | Self::WallTime)
    }

    /// The orchestrator's exit code.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate | Self::Request => 143,
            Self::Preemption | Self::WallTime => 75,
        }
    }
}

/// Time that is left over when a last save takes three times as long as the longest before it.
const MARGIN: Duration = Duration::from_secs(10);

/// How long before the end of an allocation Slurm may signal it.
const SIGNALLED: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Somebody asks to stop; `why` in words.
    pub(super) fn stop(&mut self, reason: StopReason, why: &str, now: Time) {
        if let Some((asked, _)) = self.stop {
            // Slurm signals several times, and kills by itself when its patience ends.
            let system = reason != StopReason::Interrupt && self.options.slurm_job.is_some();
            if !system && reason != StopReason::Request && reason != StopReason::WallTime {
                self.kill(asked, now);
            }
            return;
        }
        self.stop = Some((reason, now));
        self.record(journal::Event::StopRequested, why);
        if reason == StopReason::Terminate && self.options.slurm_job.is_some() {
            self.commands.push(Command::FindReason);
        }
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.finish(Outcome::Stopped { reason, saved: true }, State::Stopped);
            return;
        }
        if self.options.job.keeps_progress() {
            self.tell_all(&ToWorker::Stop { reason: why.into() });
        } else if !matches!(self.phase, Phase::Ending { .. }) {
            self.kill(reason, now);
        }
    }

    /// What a stop that was asked for is about.
    pub(super) fn stop_is(&mut self, reason: StopReason, now: Time) {
        // Slurm calls a job over when it is cancelled too: only the end that was known before tells the two apart.
        let over = self.deadline.is_some_and(|deadline| now + SIGNALLED >= deadline);
        let reason = if reason == StopReason::Terminate && over { StopReason::WallTime } else { reason };
        if let Some((known, _)) = &mut self.stop
            && *known != reason
        {
            *known = reason;
            self.record(journal::Event::StopRequested, format!("it is {}", reason.name()));
        }
    }

    /// How long it may take from the wish to stop to the last save's commit, by what steps and saves have taken.
    pub(super) fn time_to_save(&self) -> Duration {
        let save = Duration::from_secs_f64(self.longest_save.clamp(0.0, 1e6));
        MARGIN + 3 * save + 2 * self.pace.longest()
    }

    /// Stops in time to save once more before the allocation ends.
    pub(super) fn watch_deadline(&mut self, now: Time) {
        let Some(deadline) = self.deadline.filter(|_| self.stop.is_none() && matches!(self.phase, Phase::Running)) else { return };
        let needed = self.time_to_save();
        if now + needed >= deadline {
            let left = deadline.saturating_sub(now);
            let why = format!("the allocation ends in {} s, and saving may take {} s", left.as_secs(), needed.as_secs_f64().ceil());
            self.stop(StopReason::WallTime, &why, now);
        }
    }
}
