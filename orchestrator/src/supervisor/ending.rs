//! How a generation ends: by success, failure or wish; how its processes are made to go; and whether another one follows.

use std::time::Duration;

use common::control::{FailureKind, ToWorker};
use common::journal;

use super::machine::{Phase, Supervisor};
use super::pace::Pace;
use super::suspicion::{Candidate, Telling};
use super::workers::Workers;
use super::{Command, Failure, Outcome, State, StopReason, Time};

/// How a generation went.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Every worker has finished.
    Done,
    /// Every worker has saved and ended when asked to.
    Stopped(StopReason),
    /// The workers were not given the time to save.
    Killed(StopReason),
    /// It makes way, right after a checkpoint, for one with more hosts; why.
    Regrouping(String),
    Failed(Failure),
}

/// How firmly the launcher's processes were asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    None,
    Terminate,
    Kill,
}

/// Time that guards have to end their workers before the launcher is asked to.
const GUARDS: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Ends the generation because of a failure that is not one worker's own.
    pub(super) fn fail_at(&mut self, rank: Option<usize>, host: Option<String>, kind: FailureKind, cause: String, now: Time) {
        let candidate = Candidate { telling: Telling::Cause, rank, step: 0, kind, cause, end: None };
        self.fail_on(candidate, Vec::new(), host, now);
    }

    /// Ends the generation because of its first failure; the others, and later ones, follow from it (SV-2).
    pub(super) fn fail(&mut self, first: Candidate, others: Vec<Candidate>, now: Time) {
        let member = first.rank.and_then(|rank| self.workers.member(rank));
        let host = member.and_then(|member| member.host()).map(ToOwned::to_owned);
        self.fail_on(first, others, host, now);
    }

    fn fail_on(&mut self, first: Candidate, others: Vec<Candidate>, host: Option<String>, now: Time) {
        if matches!(self.phase, Phase::Ending { .. } | Phase::Over(_) | Phase::Waiting { .. }) {
            return;
        }
        let Candidate { rank, step, kind, cause, end, .. } = first;
        let failure = Failure { generation: self.generation, rank, host: host.clone(), step, kind, cause, end };
        self.record(journal::Event::Failed { rank, host, step, kind: Some(kind), log: Vec::new() }, failure.cause.clone());
        // Connections that break when a launcher dies have nothing to tell.
        let telling = others.into_iter().filter(|other| other.telling != Telling::Silence);
        for (rank, cause) in telling.filter_map(|other| Some((other.rank?, other.cause))) {
            self.record(journal::Event::Followed { rank }, cause);
        }
        self.tell_all(&ToWorker::Kill { reason: failure.to_string() });
        self.failure = Some(failure.clone());
        // Processes that have not reported yet hear of it from nobody else.
        let pressure = if self.workers.all_guarded() { Pressure::None } else { Pressure::Terminate };
        self.end(Verdict::Failed(failure), pressure, now);
    }

    /// Ends the generation at once, nothing saved (SV-5); when it is ending already, more firmly.
    pub(super) fn kill(&mut self, reason: StopReason, now: Time) {
        match &mut self.phase {
            Phase::Ending { .. } => self.press_harder(now),
            Phase::Over(_) | Phase::Waiting { .. } => {}
            _ => {
                let why = if self.options.job.keeps_progress() { "no more time to save" } else { "nothing to save" };
                self.tell_all(&ToWorker::Kill { reason: format!("{} received, and {why}", reason.name()) });
                self.end(Verdict::Killed(reason), Pressure::Terminate, now);
            }
        }
    }

    pub(super) fn end(&mut self, verdict: Verdict, pressure: Pressure, now: Time) {
        self.phase = Phase::Ending { verdict, pressure, since: now };
        if pressure != Pressure::None && !self.processes_gone {
            self.commands.push(Command::End { generation: self.generation, force: pressure == Pressure::Kill });
        }
        self.conclude_if_gone(now);
    }

    /// Asks more firmly once the time for the last way of asking is over.
    pub(super) fn press(&mut self, now: Time) {
        let Phase::Ending { verdict, pressure, since } = &self.phase else { return };
        let finished = matches!(verdict, Verdict::Done | Verdict::Stopped(_));
        let allowed = if *pressure == Pressure::None && !finished { GUARDS } else { self.options.patience.exit };
        if now.saturating_sub(*since) < allowed {
            return;
        }
        if self.processes_gone && *pressure == Pressure::Kill {
            // Guards that were told to kill and do not say that they have: nothing more can be done from here.
            self.conclude(now);
            return;
        }
        self.press_harder(now);
    }

    fn press_harder(&mut self, now: Time) {
        let Phase::Ending { pressure, since, .. } = &mut self.phase else { return };
        let force = *pressure != Pressure::None;
        (*pressure, *since) = (if force { Pressure::Kill } else { Pressure::Terminate }, now);
        self.commands.push(Command::End { generation: self.generation, force });
        for connection in self.workers.guarding() {
            self.tell(connection, ToWorker::Kill { reason: "it did not end when asked to".into() });
        }
    }

    /// Goes on when no worker of the generation is left (SV-1).
    pub(super) fn conclude_if_gone(&mut self, now: Time) {
        let Phase::Ending { verdict, .. } = &self.phase else { return };
        let told = self.workers.all_gone(self.hosts.lost());
        // After a success the launcher is given the time to end by itself; after anything else nobody waits for it.
        let in_order = matches!(verdict, Verdict::Done | Verdict::Stopped(_));
        let gone = self.processes_gone && self.workers.guarding().is_empty();
        if gone || (told && !in_order) {
            if !self.processes_gone {
                self.commands.push(Command::End { generation: self.generation, force: true });
            }
            self.conclude(now);
        }
    }

    /// All processes are gone: the next generation, or the end.
    fn conclude(&mut self, now: Time) {
        let Phase::Ending { verdict, .. } = std::mem::replace(&mut self.phase, Phase::Over(State::Ending)) else { return };
        self.record(journal::Event::GenerationEnded, "every process has ended");
        for connection in self.workers.connected() {
            self.commands.push(Command::Close { connection });
        }
        match verdict {
            Verdict::Done => {
                let summary = std::mem::take(&mut self.summary);
                self.finish(Outcome::Done(summary), State::Finished);
            }
            Verdict::Stopped(reason) => self.conclude_stop(reason, true),
            // What has nothing to save has lost nothing.
            Verdict::Killed(reason) => self.conclude_stop(reason, !self.options.job.keeps_progress()),
            Verdict::Regrouping(reason) => {
                self.generation += 1;
                self.start_generation(reason, now);
            }
            Verdict::Failed(failure) => self.conclude_failure(failure, now),
        }
    }

    fn conclude_stop(&mut self, asked: StopReason, saved: bool) {
        // What the stop is about may have become known since.
        let reason = self.stop.map_or(asked, |(reason, _)| reason);
        self.finish(Outcome::Stopped { reason, saved }, State::Stopped);
    }

    fn conclude_failure(&mut self, failure: Failure, now: Time) {
        let allowed = self.options.max_restarts;
        if !failure.kind.restart_helps() {
            self.finish(Outcome::Failed { failure, restarts: self.restarts }, State::Failed);
        } else if let Some((reason, _)) = self.stop {
            self.finish(Outcome::Stopped { reason, saved: false }, State::Stopped);
        } else if self.restarts < allowed {
            self.restarts += 1;
            self.generation += 1;
            let reason = format!("restart {} of {allowed}: {failure}", self.restarts);
            self.phase = Phase::Waiting { since: now, reason };
            self.leave_waiting(now);
        } else {
            self.finish(Outcome::Failed { failure, restarts: self.restarts }, State::Failed);
        }
    }

    /// Starts the generation that waits for hosts, once those that are lost had a moment to show themselves and enough answer (SV-7).
    pub(super) fn leave_waiting(&mut self, now: Time) {
        let Phase::Waiting { since, reason } = &self.phase else { return };
        let waited = now.saturating_sub(*since);
        if !self.hosts.lost().is_empty() && waited < self.options.patience.probe {
            return;
        }
        if self.hosts.place().is_some() {
            let reason = reason.clone();
            self.start_generation(reason, now);
        } else if waited >= self.options.patience.hosts
            && let Some(failure) = self.failure.clone()
        {
            self.finish(Outcome::Failed { failure, restarts: self.restarts }, State::Failed);
        }
    }

    pub(super) fn start_generation(&mut self, reason: String, now: Time) {
        self.hosts.placed = self.hosts.place().unwrap_or_default();
        let (world, hosts) = (self.world(), self.hosts.placed.clone());
        self.workers = Workers::expecting(world);
        self.pace = Pace::start(now);
        (self.processes_gone, self.rendezvous, self.findings) = (false, None, None);
        self.phase = Phase::Starting(now);
        self.record(journal::Event::GenerationStarted { world, hosts: hosts.clone() }, reason);
        self.commands.push(Command::Start { generation: self.generation, hosts });
    }

    pub(super) fn finish(&mut self, outcome: Outcome, state: State) {
        if matches!(outcome, Outcome::Done(_)) {
            self.record(journal::Event::Finished, "every worker has finished");
        } else {
            let exit_code = outcome.exit_code();
            let reason = match &outcome {
                Outcome::Failed { failure, .. } => failure.to_string(),
                Outcome::Stopped { reason, .. } => reason.name().to_owned(),
                Outcome::Done(_) => String::new(),
            };
            self.record(journal::Event::Ended { exit_code }, reason);
        }
        self.phase = Phase::Over(state);
        self.commands.push(Command::Finish(outcome));
    }
}
