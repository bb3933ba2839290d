//! How a generation ends: by success, failure or wish; how its processes are made to go; and whether another one follows.

use common::control::{FailureKind, ToWorker};
use common::journal;

use super::machine::{Phase, Supervisor};
use super::workers::Workers;
use super::{Command, Failure, Outcome, State, StopSignal, Time};

/// How a generation went.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Every worker has finished.
    Done,
    /// Every worker has saved and ended when asked to.
    Stopped(StopSignal),
    /// The workers were not given the time to save.
    Killed(StopSignal),
    Failed(Failure),
}

/// How firmly the processes were asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    None,
    Terminate,
    Kill,
}

impl Supervisor {
    /// Ends the generation because of its first failure; later ones follow from it (SV-2).
    pub(super) fn fail(&mut self, rank: Option<usize>, step: u64, kind: FailureKind, cause: String, now: Time) {
        if matches!(self.phase, Phase::Ending { .. } | Phase::Over(_)) {
            return;
        }
        let failure = Failure { generation: self.generation, rank, step, kind, cause };
        self.record(journal::Event::Failed { rank, host: None, step, kind: Some(kind), log: Vec::new() }, failure.cause.clone());
        self.tell_all(&ToWorker::Kill { reason: failure.to_string() });
        self.failure = Some(failure.clone());
        self.end(Verdict::Failed(failure), Pressure::Terminate, now);
    }

    /// Ends the generation at once, nothing saved (SV-5); when it is ending already, more firmly.
    pub(super) fn kill(&mut self, signal: StopSignal, now: Time) {
        match &mut self.phase {
            Phase::Ending { pressure, since, .. } => {
                let force = *pressure != Pressure::None;
                (*pressure, *since) = (if force { Pressure::Kill } else { Pressure::Terminate }, now);
                self.commands.push(Command::End { generation: self.generation, force });
            }
            Phase::Over(_) => {}
            _ => {
                self.tell_all(&ToWorker::Kill { reason: format!("{} received, and no more time to save", signal.name()) });
                self.end(Verdict::Killed(signal), Pressure::Terminate, now);
            }
        }
    }

    pub(super) fn end(&mut self, verdict: Verdict, pressure: Pressure, now: Time) {
        self.phase = Phase::Ending { verdict, pressure, since: now };
        if self.processes_gone {
            self.conclude(now);
        } else if pressure != Pressure::None {
            self.commands.push(Command::End { generation: self.generation, force: pressure == Pressure::Kill });
        }
    }

    /// All processes are gone: the next generation, or the end.
    pub(super) fn conclude(&mut self, now: Time) {
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
            Verdict::Stopped(signal) => self.finish(Outcome::Stopped { signal, saved: true }, State::Stopped),
            Verdict::Killed(signal) => self.finish(Outcome::Stopped { signal, saved: false }, State::Stopped),
            Verdict::Failed(failure) => self.conclude_failure(failure, now),
        }
    }

    fn conclude_failure(&mut self, failure: Failure, now: Time) {
        let allowed = self.options.max_restarts;
        if failure.kind == FailureKind::BadInput {
            self.finish(Outcome::BadInput(failure), State::Failed);
        } else if let Some((signal, _)) = self.stop {
            self.finish(Outcome::Stopped { signal, saved: false }, State::Stopped);
        } else if self.restarts < allowed {
            self.restarts += 1;
            self.generation += 1;
            self.start_generation(format!("restart {} of {allowed}: {failure}", self.restarts), now);
        } else {
            self.finish(Outcome::Failed { failure, restarts: self.restarts }, State::Failed);
        }
    }

    pub(super) fn start_generation(&mut self, reason: String, now: Time) {
        self.workers = Workers::default();
        self.processes_gone = false;
        self.phase = Phase::Starting(now);
        let world = self.options.world;
        self.record(journal::Event::GenerationStarted { world, hosts: Vec::new() }, reason);
        self.commands.push(Command::Start { generation: self.generation });
    }

    fn finish(&mut self, outcome: Outcome, state: State) {
        if matches!(outcome, Outcome::Done(_)) {
            self.record(journal::Event::Finished, "every worker has finished");
        } else {
            let exit_code = outcome.exit_code();
            let reason = match &outcome {
                Outcome::Failed { failure, .. } | Outcome::BadInput(failure) => failure.to_string(),
                Outcome::Stopped { signal, .. } => format!("{} received", signal.name()),
                Outcome::Done(_) => String::new(),
            };
            self.record(journal::Event::Ended { exit_code }, reason);
        }
        self.phase = Phase::Over(state);
        self.commands.push(Command::Finish(outcome));
    }
}
