//! The state machine: one method per event. How a generation ends, and what follows, is next door in `ending`.

use common::control::{Connection, FailureKind, FromWorker, Hello, ProcessEnd, Role, ToWorker};
use common::job::Job;
use common::journal;
use serde_json::Value;

use super::ending::{Pressure, Verdict};
use super::hang::Investigation;
use super::hosts::Hosts;
use super::pace::{Pace, Recent};
use super::suspicion::{self, Candidate, Suspicion, Telling};
use super::workers::Workers;
use super::{Command, Event, Failure, Options, State, StopReason, Time, describe_end};

/// Time between two looks for stragglers.
const LOOK: Time = Time::from_secs(1);

/// The state machine of one launch.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) options: Options,
    pub(super) generation: u64,
    pub(super) phase: Phase,
    pub(super) hosts: Hosts,
    pub(super) workers: Workers,
    pub(super) pace: Pace,
    straggler: Option<usize>,
    /// When stragglers were last looked for.
    looked: Time,
    pub(super) processes_gone: bool,
    pub(super) restarts: usize,
    checkpoint: Option<u64>,
    pub(super) longest_save: f64,
    pub(super) summary: Value,
    pub(super) stop: Option<(StopReason, Time)>,
    pub(super) deadline: Option<Time>,
    pub(super) failure: Option<Failure>,
    pub(super) commands: Vec<Command>,
}

/// Where the launch stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not every worker has greeted; since when.
    Starting(Time),
    Running,
    /// Something has failed; a better account of it may still come.
    Suspecting(Suspicion),
    /// Nothing moves; the guards are asked why.
    Investigating(Investigation),
    /// The generation's verdict is known, its processes are not all gone.
    Ending {
        verdict: Verdict,
        pressure: Pressure,
        since: Time,
    },
    /// For lost hosts: since when, and the reason of the generation that will start.
    Waiting {
        since: Time,
        reason: String,
    },
    Over(State),
}

impl Supervisor {
    /// A launch that starts its first generation now, and the commands for that.
    pub(crate) fn start(options: Options, now: Time) -> (Self, Vec<Command>) {
        let mut this = Self {
            generation: options.first_generation,
            phase: Phase::Starting(now),
            hosts: Hosts::new(&options),
            workers: Workers::default(),
            pace: Pace::start(now),
            straggler: None,
            looked: now,
            processes_gone: false,
            restarts: 0,
            checkpoint: None,
            longest_save: 0.0,
            summary: Value::Null,
            stop: None,
            deadline: None,
            failure: None,
            commands: Vec::new(),
            options,
        };
        let (job, version) = (this.options.job, this.options.version.clone());
        let (slurm_job, host) = (this.options.slurm_job.clone(), this.options.host.clone());
        let world = this.options.nodes * this.options.workers_per_node;
        this.record(journal::Event::Launched { job, world, version, slurm_job, host }, "orchestrator launch");
        this.start_generation("first generation of this launch".into(), now);
        let commands = std::mem::take(&mut this.commands);
        (this, commands)
    }

    /// Takes note of an event that happened at `now`, and says what to do.
    pub(crate) fn handle(&mut self, event: Event, now: Time) -> Vec<Command> {
        if !matches!(self.phase, Phase::Over(_)) {
            match event {
                Event::Joined { connection, hello } => self.joined(connection, hello, now),
                Event::Said { connection, message } => self.said(connection, message, now),
                Event::Left { connection, error, unreachable } => self.left(connection, error, unreachable, now),
                Event::ProcessEnded { generation, rank, end, remaining } if generation == self.generation => {
                    self.process_ended(rank, end, remaining, now);
                }
                Event::ProcessEnded { .. } => {}
                Event::HostAnswers { host } => self.host_answers(&host, now),
                Event::Stop(reason) => self.stop(reason, &format!("{} received", reason.name()), now),
                Event::StopIs(reason) => self.stop_is(reason, now),
                Event::Deadline(deadline) => self.deadline = Some(deadline),
                Event::Tick => self.tick(now),
            }
        }
        std::mem::take(&mut self.commands)
    }

    /// Where the launch stands, for people.
    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Over(state) => *state,
            Phase::Suspecting(_) | Phase::Ending { .. } => State::Ending,
            Phase::Waiting { .. } => State::Waiting,
            _ if self.stop.is_some() => State::Stopping,
            Phase::Starting(_) => State::Starting,
            Phase::Running | Phase::Investigating(_) => State::Running,
        }
    }

    /// The current generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Its number of workers.
    pub(crate) fn world(&self) -> usize {
        self.hosts.placed.len().max(1) * self.options.workers_per_node
    }

    /// Its workers.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// What a rank did lately.
    pub(crate) fn recent(&self, rank: usize) -> Recent {
        self.pace.recent(rank)
    }

    /// The rank that keeps the others waiting.
    pub(crate) fn straggler(&self) -> Option<usize> {
        self.straggler
    }

    /// Hosts that do not answer.
    pub(crate) fn lost_hosts(&self) -> Vec<String> {
        self.hosts.lost().iter().cloned().collect()
    }

    /// The newest checkpoint of this launch.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// The longest save of this launch in seconds.
    pub(crate) fn longest_save(&self) -> f64 {
        self.longest_save
    }

    /// Restarts since that checkpoint.
    pub(crate) fn restarts(&self) -> usize {
        self.restarts
    }

    /// The newest failure.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The rank of the worker behind a connection of this generation.
    pub(crate) fn rank_of(&self, connection: Connection) -> Option<usize> {
        self.workers.who(connection).filter(|(_, role)| *role == Role::Worker).map(|(rank, _)| rank)
    }

    fn joined(&mut self, connection: Connection, hello: Hello, now: Time) {
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
        if guard && matches!(self.phase, Phase::Ending { .. }) {
            self.tell(connection, ToWorker::Kill { reason: "the generation is ending".into() });
        }
        if let (false, Some((reason, _))) = (guard, self.stop) {
            self.tell(connection, ToWorker::Stop { reason: format!("{} received", reason.name()) });
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

    fn said(&mut self, connection: Connection, message: FromWorker, now: Time) {
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
            FromWorker::CheckpointCommitted { step, seconds } => self.checkpoint_committed(step, seconds, now),
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
            FromWorker::Signalled { signal } => {
                self.stop(StopReason::Terminate, &format!("the system has sent {signal} to rank {rank}"), now);
            }
            FromWorker::Stacks { text } => self.stacks_told(rank, &text, now),
            _ => {}
        }
    }

    /// Only a checkpoint that is newer than all before makes restarts free again (SV-3).
    fn checkpoint_committed(&mut self, step: u64, seconds: f64, now: Time) {
        self.longest_save = self.longest_save.max(seconds);
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

    fn left(&mut self, connection: Connection, error: Option<String>, unreachable: bool, now: Time) {
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

    fn host_answers(&mut self, host: &str, now: Time) {
        if self.hosts.find(host) {
            self.record(journal::Event::HostBack { host: host.into() }, "it answers");
            self.leave_waiting(now);
        }
    }

    fn process_ended(&mut self, rank: Option<usize>, end: ProcessEnd, remaining: usize, now: Time) {
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

    /// A failure was heard of: it ends the generation at once, or waits for what tells more.
    pub(super) fn suspect(&mut self, candidate: Candidate, now: Time) {
        match &mut self.phase {
            Phase::Starting(_) | Phase::Running | Phase::Investigating(_) => {
                self.phase = Phase::Suspecting(Suspicion::new(candidate, now));
            }
            Phase::Suspecting(suspicion) => suspicion.add(candidate),
            Phase::Ending { verdict: Verdict::Failed(first), .. } => {
                let killed = candidate.end == Some(ProcessEnd::Signal(nix::libc::SIGKILL)) || candidate.telling == Telling::Silence;
                if let Some(rank) = candidate.rank.filter(|rank| !killed && first.rank != Some(*rank)) {
                    self.record(journal::Event::Followed { rank }, candidate.cause);
                }
                return;
            }
            Phase::Ending { .. } | Phase::Waiting { .. } | Phase::Over(_) => return,
        }
        self.resolve_if_ripe(now);
    }

    fn resolve_if_ripe(&mut self, now: Time) {
        let Phase::Suspecting(suspicion) = &self.phase else { return };
        // When everybody is gone nobody is left who could tell more.
        let nobody_left = self.processes_gone && !self.workers.any_open() && self.workers.guarding().is_empty();
        if !nobody_left && !suspicion.is_ripe(now, self.options.patience.cause) {
            return;
        }
        let Some(first) = suspicion.best().cloned() else { return };
        let Phase::Suspecting(suspicion) = std::mem::replace(&mut self.phase, Phase::Running) else { return };
        let others = suspicion.others(&first);
        self.fail(first, others, now);
    }

    fn tick(&mut self, now: Time) {
        let patience = self.options.patience;
        if let (Some((reason, since)), Phase::Starting(_) | Phase::Running) = (self.stop, &self.phase)
            && now.saturating_sub(since) >= patience.stop
        {
            self.kill(reason, now);
        }
        match &self.phase {
            Phase::Ending { .. } => self.press(now),
            Phase::Suspecting(_) => self.resolve_if_ripe(now),
            Phase::Investigating(_) => self.watch_investigation(now),
            Phase::Waiting { .. } => self.leave_waiting(now),
            Phase::Starting(since) if now.saturating_sub(*since) >= patience.start => {
                let missing = self.workers.missing();
                let cause = format!("no greeting from rank {missing} within {} s", patience.start.as_secs());
                self.fail_at(None, None, FailureKind::Fault, cause, now);
            }
            Phase::Starting(_) | Phase::Running => {
                self.watch_progress(now);
                self.watch_deadline(now);
                self.watch_stragglers(now);
            }
            Phase::Over(_) => {}
        }
    }

    /// Names a rank that keeps the others waiting, once per generation and rank.
    fn watch_stragglers(&mut self, now: Time) {
        if self.options.job != Job::Train || now.saturating_sub(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let found = self.pace.straggler();
        if let Some((rank, factor)) = found.filter(|(rank, _)| self.straggler != Some(*rank)) {
            let host = self.workers.rank(rank).map(|worker| worker.hello.host.clone()).unwrap_or_default();
            let reason = format!("its steps take {factor:.1} times as long as the median rank's");
            self.record(journal::Event::Straggler { rank, host, factor }, reason);
        }
        self.straggler = found.map(|(rank, _)| rank);
    }

    fn refuse(&mut self, connection: Connection, reason: String) {
        self.tell(connection, ToWorker::Kill { reason });
        self.commands.push(Command::Close { connection });
    }

    pub(super) fn tell(&mut self, connection: Connection, message: ToWorker) {
        self.commands.push(Command::Tell { connection, message });
    }

    /// Tells every worker that has not said its last message; with a kill also the guards, whose word counts even if the worker is
    /// stuck.
    pub(super) fn tell_all(&mut self, message: &ToWorker) {
        let guards = if matches!(message, ToWorker::Kill { .. }) { self.workers.guarding() } else { Vec::new() };
        for connection in self.workers.unfinished().into_iter().chain(guards) {
            self.tell(connection, message.clone());
        }
    }

    pub(super) fn record(&mut self, event: journal::Event, reason: impl Into<String>) {
        self.commands.push(Command::Record { generation: self.generation, event, reason: reason.into() });
    }
}
