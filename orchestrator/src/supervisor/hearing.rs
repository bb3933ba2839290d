//! What the supervisor makes of what it hears: greetings, messages, and the ends of connections and processes.

use common::control::{Connection, Evaluation, FailureKind, FromWorker, Hello, ProcessEnd, Role, Setback, SetbackKind, ToWorker};
use common::journal;

use super::checkup::{self, Outlier};
use super::ending::{Pressure, Verdict};
use super::machine::{Phase, Supervisor};
use super::pace::Pace;
use super::suspicion::{self, Candidate, Telling};
use super::{Command, StopReason, Time, describe_end};

impl Supervisor {
    pub(super) fn joined(&mut self, connection: Connection, hello: Hello, now: Time) {
        let guard = hello.role == Role::Guard;
        let expected = match &self.phase {
            Phase::Starting(_) => true,
            Phase::Waiting { .. } | Phase::Over(_) => false,
            // Whoever ends a generation needs all of its guards.
            _ => guard,
        };
        if !expected || hello.generation != self.generation {
            let reason = format!("generation {} is not starting (any more)", hello.generation);
            self.refuse(connection, reason);
            return;
        }
        if let Some(problem) = self.misfit(&hello) {
            self.refuse(connection, problem.clone());
            let host = Some(hello.host);
            self.fail_at(Some(hello.rank), host, FailureKind::BadInput, problem, now);
            return;
        }
        if !guard {
            let (rank, host, pid, device) = (hello.rank, hello.host.clone(), hello.pid, hello.device.clone());
            self.record(journal::Event::WorkerJoined { rank, host, pid, device }, "it knows the run's key");
        }
        self.workers.add(connection, hello, now);
        self.tell(connection, ToWorker::Welcome { generation: self.generation });
        if let (false, Some(id)) = (guard, self.rendezvous.clone()) {
            self.tell(connection, ToWorker::Rendezvous { id });
        }
        if guard && matches!(self.phase, Phase::Ending { .. }) {
            self.tell(connection, ToWorker::Kill { reason: "the generation is ending".into() });
        }
        if let (false, Some((reason, _))) = (guard, self.stop) {
            self.tell(connection, ToWorker::Stop { reason: format!("{} received", reason.name()) });
        }
        if !guard && self.wish.is_owed() {
            self.tell(connection, ToWorker::Save { reason: "asked for before this worker started".into() });
        }
        if matches!(self.phase, Phase::Starting(_)) && self.workers.len() == self.world() {
            self.phase = Phase::Running;
            self.pace = Pace::start(now);
            self.record(journal::Event::Running, format!("all {} workers have reported", self.world()));
        }
    }

    /// Why this peer cannot be one of ours although it knows the key and the generation.
    fn misfit(&self, hello: &Hello) -> Option<String> {
        let Hello { rank, world, version, .. } = hello;
        let (expected, ours) = (self.world(), &self.options.version);
        if *world != expected {
            Some(format!(
                "it believes in {world} workers, but {expected} were started: the launcher's environment did not reach it"
            ))
        } else if *rank >= *world || self.workers.has(*rank, hello.role) {
            Some(format!("a second worker with this rank, or a rank beyond the {world} workers"))
        } else if version != ours {
            Some(format!("worker {version} does not go with orchestrator {ours}: build both from one source"))
        } else {
            None
        }
    }

    pub(super) fn said(&mut self, connection: Connection, message: FromWorker, now: Time) {
        let Some((rank, role)) = self.workers.who(connection) else { return };
        match role {
            Role::Worker => self.worker_said(rank, message, now),
            Role::Guard => self.guard_said(rank, message, now),
        }
    }

    fn worker_said(&mut self, rank: usize, message: FromWorker, now: Time) {
        let Some(worker) = self.workers.member_mut(rank).and_then(|member| member.worker.as_mut()) else { return };
        worker.heard = now;
        match message {
            FromWorker::Heartbeat(pulse) => {
                worker.pulse = pulse;
                worker.step = worker.step.max(pulse.step);
                self.pace.observe(pulse.step, now);
                self.pace.heard(rank, pulse, now);
            }
            FromWorker::Rendezvous { id } => {
                // Another rank's would lead its own believers away from the others.
                if rank == 0 && self.rendezvous.is_none() {
                    self.tell_all(&ToWorker::Rendezvous { id: id.clone() });
                    self.rendezvous = Some(id);
                }
            }
            FromWorker::Checkup(checkup) => {
                let first = worker.checkup.replace(checkup.clone()).is_none();
                self.record(journal::Event::WorkerChecked { rank, checkup }, "before the first step");
                if first {
                    self.judge_checkups(now);
                }
            }
            FromWorker::Progress(progress) => {
                worker.step = progress.done;
                self.pace.observe(progress.done, now);
            }
            FromWorker::FirstStep { step } => {
                if !self.pace.has_begun() {
                    self.pace.begin(step, now);
                    self.record(journal::Event::FirstStep { step }, "the first step of this generation is done");
                }
            }
            FromWorker::Setback(setback) if rank == 0 => self.set_back(setback, now),
            // It is the same on all ranks.
            FromWorker::Setback(_) => {}
            FromWorker::Evaluated(evaluation) if rank == 0 => self.evaluated(evaluation),
            FromWorker::Evaluated(_) => {}
            FromWorker::CheckpointCommitted { step, seconds } => self.checkpoint_committed(step, seconds, now),
            FromWorker::CheckpointFailed { step, cause } => self.not_saved(step, cause),
            FromWorker::Failed(failure) => {
                worker.finished = true;
                self.suspect(suspicion::said(rank, failure), now);
            }
            FromWorker::Finished { summary, stopped } => {
                (worker.finished, worker.done) = (true, true);
                if rank == 0 {
                    self.summary = summary;
                }
                if stopped && self.stop.is_none() {
                    // The system has signalled the workers themselves.
                    self.stop(StopReason::Terminate, "the workers were signalled to end", now);
                }
                if self.workers.done() == self.world() && !matches!(self.phase, Phase::Ending { .. }) {
                    let verdict = self.stop.map_or(Verdict::Done, |(reason, _)| Verdict::Stopped(reason));
                    self.end(verdict, Pressure::None, now);
                }
            }
            FromWorker::Hello(_) | FromWorker::Ended { .. } | FromWorker::Signalled { .. } | FromWorker::Stacks { .. } => {}
        }
    }

    fn guard_said(&mut self, rank: usize, message: FromWorker, now: Time) {
        match message {
            FromWorker::Ended { end, out_of_memory } => {
                let Some(member) = self.workers.member_mut(rank) else { return };
                let (finished, step) = member.worker.as_ref().map_or((false, 0), |worker| (worker.finished, worker.step));
                if let Some(guard) = &mut member.guard {
                    guard.end = Some(end);
                }
                if !finished {
                    self.suspect(suspicion::ended(Some(rank), step, end, out_of_memory), now);
                }
                self.conclude_if_gone(now);
            }
            FromWorker::Signalled { signal } if signal == "SIGUSR2" => self.save_by_signal(rank, now),
            // A launcher that this coordinator ends passes that on to its guards, and one that has lost a worker ends the others.
            FromWorker::Signalled { .. } if matches!(self.phase, Phase::Suspecting(_) | Phase::Ending { .. }) => {}
            FromWorker::Signalled { signal } => {
                self.stop(StopReason::Terminate, &format!("the system has sent {signal} to rank {rank}"), now);
            }
            FromWorker::Stacks { text } => self.stacks_told(rank, &text, now),
            _ => {}
        }
    }

    /// Training goes on, from the next step or from an earlier one.
    fn set_back(&mut self, setback: Setback, now: Time) {
        self.record(journal::Event::Setback(setback), setback.to_string());
        match setback.kind {
            SetbackKind::Skipped => self.setbacks.skipped += 1,
            SetbackKind::BackTo(step) => {
                self.setbacks.back += 1;
                self.workers.go_back(step);
                self.pace.go_back(step, now);
            }
        }
    }

    /// The model was looked at. That its slots look collapsed is told once, until they do not.
    fn evaluated(&mut self, evaluation: Evaluation) {
        self.record(journal::Event::Evaluated(evaluation.clone()), evaluation.to_string());
        let before = self.evaluation.as_ref().is_some_and(|before| before.collapse.is_some());
        if let Some(why) = evaluation.collapse.clone().filter(|_| !before) {
            self.record(journal::Event::SlotsCollapsed { step: evaluation.step }, why);
        }
        self.evaluation = Some(evaluation);
    }

    /// Once the last worker has tried out its device: what all of them say together.
    fn judge_checkups(&mut self, now: Time) {
        let Some(checkups) = self.workers.checkups() else { return };
        match checkup::judge(&checkups) {
            Ok(None) => {}
            Ok(Some(findings)) => {
                let (device, total_tflops) = (findings.device.clone(), findings.total_tflops);
                self.record(journal::Event::CheckedUp { device, total_tflops }, findings.sentence());
                for Outlier { rank, host, problem } in findings.outliers.clone() {
                    self.record(journal::Event::Outlier { rank, host }, problem);
                }
                self.findings = Some(findings);
            }
            Err(mixed) => self.fail_at(None, None, FailureKind::BadInput, mixed, now),
        }
    }

    /// Only a checkpoint that is newer than all before makes restarts free again (SV-3).
    fn checkpoint_committed(&mut self, step: u64, seconds: f64, now: Time) {
        self.longest_save = self.longest_save.max(seconds);
        self.saved(seconds, now);
        if self.checkpoint.is_none_or(|newest| step > newest) {
            self.checkpoint = Some(step);
            self.restarts = 0;
            self.record(journal::Event::CheckpointCommitted { step, seconds }, "reported by a worker");
            if self.hosts.could_grow() && self.stop.is_none() && matches!(self.phase, Phase::Running) {
                let reason = format!("from the checkpoint of step {step} on with the hosts that are back");
                self.tell_all(&ToWorker::Kill { reason: reason.clone() });
                self.end(Verdict::Regrouping(reason), Pressure::None, now);
            }
        }
    }

    pub(super) fn left(&mut self, connection: Connection, error: Option<String>, unreachable: bool, now: Time) {
        self.commands.push(Command::Close { connection });
        let Some((rank, role)) = self.workers.who(connection) else { return };
        let Some(member) = self.workers.member_mut(rank) else { return };
        let host = member.host().unwrap_or_default().to_owned();
        let ended = member.guard.as_ref().is_some_and(|guard| guard.end.is_some());
        let (finished, step) = member.worker.as_ref().map_or((false, 0), |worker| (worker.finished, worker.step));
        match role {
            Role::Worker => {
                if let Some(worker) = &mut member.worker {
                    worker.connected = false;
                }
            }
            Role::Guard => {
                if let Some(guard) = &mut member.guard {
                    guard.connected = false;
                }
            }
        }
        let silent = role == Role::Guard && self.workers.host_is_silent(&host);
        if (unreachable || silent) && !finished && self.hosts.knows(&host) {
            let why = if unreachable { "it does not answer any more" } else { "all of its processes are gone" };
            self.host_lost(rank, &host, step, why, now);
        } else if !finished && !ended {
            let broke = error.unwrap_or_else(|| "its connection closed".into());
            let cause = format!("lost: {broke}, with no exit status so far");
            let candidate =
                Candidate { telling: Telling::Silence, rank: Some(rank), step, kind: FailureKind::Fault, cause, end: None };
            self.suspect(candidate, now);
        }
        self.conclude_if_gone(now);
    }

    fn host_lost(&mut self, rank: usize, host: &str, step: u64, why: &str, now: Time) {
        if self.hosts.lose(host) {
            self.record(journal::Event::HostLost { host: host.into() }, why);
            self.commands.push(Command::Probe { hosts: vec![host.into()] });
        }
        let cause = format!("the host {host} is lost: {why}");
        let kind = FailureKind::LostHost;
        self.suspect(Candidate { telling: Telling::Cause, rank: Some(rank), step, kind, cause, end: None }, now);
    }

    pub(super) fn host_answers(&mut self, host: &str, now: Time) {
        if self.hosts.find(host) {
            self.record(journal::Event::HostBack { host: host.into() }, "it answers");
            self.leave_waiting(now);
        }
    }

    pub(super) fn process_ended(&mut self, rank: Option<usize>, end: ProcessEnd, remaining: usize, now: Time) {
        self.processes_gone = remaining == 0;
        let worker = rank.and_then(|rank| self.workers.rank(rank));
        let (finished, step) = worker.map_or((false, 0), |worker| (worker.finished, worker.step));
        if matches!(self.phase, Phase::Ending { .. }) {
            self.conclude_if_gone(now);
        } else if !finished {
            let mut candidate = suspicion::ended(rank, step, end, false);
            if rank.is_none() {
                // The launcher ends with its workers and has less to tell than they have.
                candidate.telling = if self.workers.any_open() { Telling::Complaint } else { Telling::Failure };
                let how = describe_end(end);
                candidate.cause = match self.workers.len() {
                    0 => format!("the workers ended before they reported ({how})"),
                    _ => format!("the launcher ended without its workers having finished ({how})"),
                };
            }
            self.suspect(candidate, now);
        }
    }
}
