//! A generation that makes no progress although every process is there: who holds it up, and what that one is doing.

use std::fmt::Write;

use common::control::{FailureKind, Phase as Doing, ToWorker};

use super::machine::{Phase, Supervisor};
use super::suspicion::{Candidate, Telling};
use super::workers::Worker;
use super::{Command, Time};

/// A worker whose heartbeat, sent every second whatever it computes, is this late has stopped altogether.
const MUTE: Time = Time::from_millis(2500);
/// Ranks whose stacks are asked for at most.
const STACKS: usize = 8;

/// A hang that is being looked into.
#[derive(Debug)]
pub(super) struct Investigation {
    since: Time,
    candidate: Candidate,
    /// Ranks whose stacks are still to come.
    asked: Vec<usize>,
    report: String,
}

impl Supervisor {
    /// Finds a silent worker or a step that takes too long.
    pub(super) fn watch_progress(&mut self, now: Time) {
        let patience = self.options.patience;
        let silent = self.workers.most_silent().filter(|worker| now.saturating_sub(worker.heard) >= patience.silence);
        if let Some(worker) = silent {
            let cause = format!("no sign of life for {} s", patience.silence.as_secs());
            let (rank, step) = (worker.hello.rank, worker.step);
            self.investigate(vec![rank], step, cause, now);
            return;
        }
        let stuck = self
            .workers
            .iter()
            .find(|worker| worker.pulse.phase == Doing::Connecting && worker.pulse.phase_seconds >= patience.connect.as_secs_f64());
        // Who came early has waited for those who came late.
        let all_there = matches!(self.phase, Phase::Running) && self.pace.waited(now) >= patience.connect;
        if let Some(worker) = stuck.filter(|_| all_there) {
            let cause = format!("has been connecting to the other workers for {} s", patience.connect.as_secs());
            let (rank, step) = (worker.hello.rank, worker.step);
            self.investigate(vec![rank], step, cause, now);
            return;
        }
        // Other jobs report in units of very different sizes.
        if self.options.job != common::job::Job::Train || !matches!(self.phase, Phase::Running) {
            return;
        }
        let (waited, allowed) = (self.pace.waited(now), self.pace.deadline(patience.hang, &self.workers));
        if waited < allowed {
            return;
        }
        let (done, seconds) = (self.pace.step(), waited.as_secs());
        let (step, limit, longest) = (done + 1, allowed.as_secs(), self.pace.longest().as_secs_f64());
        let learned = format!("the limit is {limit} s, the longest step so far took {longest:.1} s");
        let is_mute = |worker: &Worker| now.saturating_sub(worker.heard) >= MUTE && !worker.finished;
        let is_absent = |worker: &Worker| worker.pulse.phase != Doing::Collective && !worker.finished;
        let ranks = |is: &dyn Fn(&Worker) -> bool| {
            self.workers.iter().filter(|worker| is(worker)).map(|worker| worker.hello.rank).collect::<Vec<_>>()
        };
        let (mute, absent) = (ranks(&is_mute), ranks(&is_absent));
        if !mute.is_empty() {
            let cause = format!("fell silent in step {step}, {seconds} s ago ({learned})");
            self.investigate(mute, done, cause, now);
        } else if let Some(worker) = absent.first().and_then(|rank| self.workers.rank(*rank)) {
            let doing = worker.pulse.phase.doing();
            let cause = format!("did not enter the collective of step {step}: {doing} for {seconds} s ({learned})");
            self.investigate(absent, done, cause, now);
        } else {
            let cause = format!("every rank has been in the collective of step {step} for {seconds} s ({learned})");
            self.investigate(Vec::new(), done, cause, now);
        }
    }

    /// Asks the guards of `ranks`, of which the first is held responsible, what their workers are doing.
    fn investigate(&mut self, ranks: Vec<usize>, step: u64, cause: String, now: Time) {
        let candidate =
            Candidate { telling: Telling::Cause, rank: ranks.first().copied(), step, kind: FailureKind::Hang, cause, end: None };
        let mut report = format!("{}\n\nWhat each rank was doing:\n", candidate.cause);
        for worker in self.workers.iter().take(1024) {
            let (rank, host, pulse) = (worker.hello.rank, &worker.hello.host, worker.pulse);
            let silent = now.saturating_sub(worker.heard).as_secs_f64();
            let _ = writeln!(
                report,
                "rank {rank} on {host}: step {}, {} for {:.1} s as of {silent:.1} s ago",
                worker.step,
                pulse.phase.doing(),
                pulse.phase_seconds
            );
        }
        let mut asked = ranks;
        if asked.is_empty() {
            asked.extend(self.workers.iter().map(|worker| worker.hello.rank));
        }
        asked.truncate(STACKS);
        let guards = asked.iter().filter_map(|rank| self.workers.member(*rank)?.guard.as_ref()).filter(|guard| guard.connected);
        let guards: Vec<_> = guards.map(|guard| guard.connection).collect();
        for connection in guards {
            self.tell(connection, ToWorker::Stacks);
        }
        self.phase = Phase::Investigating(Investigation { since: now, candidate, asked, report });
    }

    /// A guard has told what its worker's threads are doing.
    pub(super) fn stacks_told(&mut self, rank: usize, text: &str, now: Time) {
        let Phase::Investigating(investigation) = &mut self.phase else { return };
        investigation.asked.retain(|asked| *asked != rank);
        let _ = writeln!(investigation.report, "\nThe threads of rank {rank}:\n{}", text.trim_end());
        if investigation.asked.is_empty() {
            self.close_investigation(now);
        }
    }

    /// Ends an investigation whose time is over.
    pub(super) fn watch_investigation(&mut self, now: Time) {
        if let Phase::Investigating(investigation) = &self.phase
            && now.saturating_sub(investigation.since) >= self.options.patience.stacks
        {
            self.close_investigation(now);
        }
    }

    fn close_investigation(&mut self, now: Time) {
        let Phase::Investigating(investigation) = std::mem::replace(&mut self.phase, Phase::Running) else { return };
        self.commands.push(Command::Report { generation: self.generation, text: investigation.report });
        self.fail(investigation.candidate, Vec::new(), now);
    }
}
