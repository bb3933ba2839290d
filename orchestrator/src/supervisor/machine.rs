//! The state machine: one method per event. How a generation ends, and what follows, is next door in `ending`.

use common::control::{Connection, FailureKind, FromWorker, Hello, ProcessEnd, ToWorker};
use common::journal;
use serde_json::Value;

use super::ending::{Pressure, Verdict};
use super::workers::Workers;
use super::{Command, Event, Failure, Options, State, StopSignal, Time, describe_end};

/// The state machine of one launch.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) options: Options,
    pub(super) generation: u64,
    pub(super) phase: Phase,
    pub(super) workers: Workers,
    pub(super) processes_gone: bool,
    pub(super) restarts: usize,
    checkpoint: Option<u64>,
    pub(super) summary: Value,
    pub(super) stop: Option<(StopSignal, Time)>,
    pub(super) failure: Option<Failure>,
    pub(super) commands: Vec<Command>,
}

/// Where the launch stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not every worker has greeted; since when.
    Starting(Time),
    Running,
    /// One worker is lost; part of the cause is still to come.
    Suspecting(Suspicion),
    /// The generation's verdict is known, its processes are not all gone.
    Ending {
        verdict: Verdict,
        pressure: Pressure,
        since: Time,
    },
    Over(State),
}

/// What is known about a lost worker.
#[derive(Debug)]
pub(super) struct Suspicion {
    since: Time,
    rank: Option<usize>,
    connection: Option<String>,
    end: Option<ProcessEnd>,
}

impl Supervisor {
    /// A launch that starts its first generation now, and the commands for that.
    pub(crate) fn start(options: Options, now: Time) -> (Self, Vec<Command>) {
        let mut this = Self {
            generation: options.first_generation,
            options,
            phase: Phase::Starting(now),
            workers: Workers::default(),
            processes_gone: false,
            restarts: 0,
            checkpoint: None,
            summary: Value::Null,
            stop: None,
            failure: None,
            commands: Vec::new(),
        };
        let (job, world, version) = (this.options.job, this.options.world, this.options.version.clone());
        this.record(journal::Event::Launched { job, world, version, slurm_job: None, host: String::new() }, "orchestrator launch");
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
                Event::Left { connection, error } => self.left(connection, error, now),
                Event::ProcessEnded { generation, rank, end, remaining } if generation == self.generation => {
                    self.process_ended(rank, end, remaining, now);
                }
                Event::ProcessEnded { .. } => {}
                Event::Signal(signal) => self.signal(signal, now),
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
            _ if self.stop.is_some() => State::Stopping,
            Phase::Starting(_) => State::Starting,
            Phase::Running => State::Running,
        }
    }

    /// The current generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Its workers.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The newest checkpoint of this launch.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// Restarts since that checkpoint.
    pub(crate) fn restarts(&self) -> usize {
        self.restarts
    }

    /// The newest failure.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The rank behind a connection of this generation.
    pub(crate) fn rank_of(&mut self, connection: Connection) -> Option<usize> {
        self.workers.get_mut(connection).map(|worker| worker.hello.rank)
    }

    fn joined(&mut self, connection: Connection, hello: Hello, now: Time) {
        let expected = matches!(self.phase, Phase::Starting(_)) && hello.generation == self.generation;
        if !expected {
            let reason = format!("generation {} is not starting (any more)", hello.generation);
            self.refuse(connection, reason);
            return;
        }
        if let Some(problem) = self.misfit(&hello) {
            self.refuse(connection, problem.clone());
            self.fail(Some(hello.rank), 0, FailureKind::BadInput, problem, now);
            return;
        }
        let (rank, host, pid, device) = (hello.rank, hello.host.clone(), hello.pid, hello.device.clone());
        self.record(journal::Event::WorkerJoined { rank, host, pid, device }, "it knows the run's key");
        self.workers.add(connection, hello, now);
        self.tell(connection, ToWorker::Welcome { generation: self.generation });
        if let Some((signal, _)) = self.stop {
            self.tell(connection, ToWorker::Stop { reason: format!("{} received", signal.name()) });
        }
        if self.workers.len() == self.options.world {
            self.phase = Phase::Running;
            self.record(journal::Event::Running, format!("all {} workers have reported", self.options.world));
        }
    }

    /// Why this worker cannot be one of ours although it knows the key and the generation.
    fn misfit(&self, hello: &Hello) -> Option<String> {
        let Hello { rank, world, version, .. } = hello;
        let expected = &self.options;
        if *world != expected.world {
            Some(format!(
                "it believes in {world} workers, but {} were started: the launcher's environment did not reach it",
                expected.world
            ))
        } else if *rank >= *world || self.workers.rank(*rank).is_some() {
            Some(format!("a second worker with this rank, or a rank beyond the {world} workers"))
        } else if *version != expected.version {
            Some(format!("worker {version} does not go with orchestrator {}: build both from one source", expected.version))
        } else {
            None
        }
    }

    fn said(&mut self, connection: Connection, message: FromWorker, now: Time) {
        let Some(worker) = self.workers.get_mut(connection) else { return };
        worker.heard = now;
        let rank = worker.hello.rank;
        match message {
            FromWorker::Hello(_) | FromWorker::Ended { .. } | FromWorker::Signalled { .. } | FromWorker::Stacks { .. } => {}
            FromWorker::Heartbeat(pulse) => worker.step = worker.step.max(pulse.step),
            FromWorker::Progress(progress) => worker.step = progress.done,
            FromWorker::CheckpointCommitted { step, seconds } => self.checkpoint_committed(step, seconds),
            FromWorker::Failed(failure) => {
                worker.finished = true;
                self.fail(Some(rank), failure.step, failure.kind, failure.cause, now);
            }
            FromWorker::Finished { summary, .. } => {
                worker.finished = true;
                if rank == 0 {
                    self.summary = summary;
                }
                if self.workers.finished() == self.options.world && !matches!(self.phase, Phase::Ending { .. }) {
                    let verdict = self.stop.map_or(Verdict::Done, |(signal, _)| Verdict::Stopped(signal));
                    self.end(verdict, Pressure::None, now);
                }
            }
        }
    }

    /// Only a checkpoint that is newer than all before makes restarts free again (SV-3).
    fn checkpoint_committed(&mut self, step: u64, seconds: f64) {
        if self.checkpoint.is_none_or(|newest| step > newest) {
            self.checkpoint = Some(step);
            self.restarts = 0;
            self.record(journal::Event::CheckpointCommitted { step, seconds }, "reported by a worker");
        }
    }

    fn left(&mut self, connection: Connection, error: Option<String>, now: Time) {
        self.commands.push(Command::Close { connection });
        let Some(worker) = self.workers.get_mut(connection) else { return };
        worker.connected = false;
        let rank = worker.hello.rank;
        if worker.finished {
            return;
        }
        let broke = error.unwrap_or_else(|| "its connection closed".into());
        match &mut self.phase {
            Phase::Starting(_) | Phase::Running => {
                self.phase = Phase::Suspecting(Suspicion { since: now, rank: Some(rank), connection: Some(broke), end: None });
            }
            Phase::Suspecting(suspicion) if suspicion.rank.is_none() => {
                suspicion.rank = Some(rank);
                suspicion.connection = Some(broke);
                self.resolve_if_known(now);
            }
            _ => {}
        }
    }

    fn process_ended(&mut self, rank: Option<usize>, end: ProcessEnd, remaining: usize, now: Time) {
        self.processes_gone = remaining == 0;
        match &mut self.phase {
            Phase::Starting(_) | Phase::Running => {
                let finished = rank.and_then(|rank| self.workers.rank(rank)).is_some_and(|worker| worker.finished);
                if !finished {
                    self.phase = Phase::Suspecting(Suspicion { since: now, rank, connection: None, end: Some(end) });
                    self.resolve_if_known(now);
                }
            }
            Phase::Suspecting(suspicion) if rank.is_none() || suspicion.rank == rank => {
                suspicion.end = Some(end);
                self.resolve_if_known(now);
            }
            Phase::Ending { .. } if self.processes_gone => self.conclude(now),
            _ => {}
        }
    }

    /// The exit status is known, and whose it is, or nobody is left who could tell.
    fn resolve_if_known(&mut self, now: Time) {
        let Phase::Suspecting(suspicion) = &self.phase else { return };
        if suspicion.end.is_some() && (suspicion.rank.is_some() || !self.workers.any_open()) {
            self.resolve(now);
        }
    }

    /// Makes a failure of what is known about the lost worker.
    fn resolve(&mut self, now: Time) {
        let Phase::Suspecting(suspicion) = &self.phase else { return };
        let kind = if suspicion.end == Some(ProcessEnd::Code(2)) { FailureKind::BadInput } else { FailureKind::Fault };
        let cause = match (suspicion.end, &suspicion.connection) {
            (Some(end), _) if suspicion.rank.is_none() && self.workers.len() == 0 => {
                format!("the workers ended before they reported ({})", describe_end(end))
            }
            (Some(end), _) => format!("ended without finishing ({})", describe_end(end)),
            (None, Some(connection)) => format!("lost: {connection}, with no exit status so far"),
            (None, None) => "lost".into(),
        };
        let rank = suspicion.rank;
        let step = rank.and_then(|rank| self.workers.rank(rank)).map_or(0, |worker| worker.step);
        self.fail(rank, step, kind, cause, now);
    }

    fn signal(&mut self, signal: StopSignal, now: Time) {
        if self.stop.is_some() {
            self.kill(signal, now);
            return;
        }
        self.stop = Some((signal, now));
        self.record(journal::Event::StopRequested, format!("{} received", signal.name()));
        self.tell_all(&ToWorker::Stop { reason: format!("{} received", signal.name()) });
    }

    fn tick(&mut self, now: Time) {
        let patience = self.options.patience;
        if let (Some((signal, since)), Phase::Starting(_) | Phase::Running) = (self.stop, &self.phase)
            && now - since >= patience.stop
        {
            self.kill(signal, now);
        }
        match &mut self.phase {
            Phase::Ending { pressure, since, .. } if now - *since >= patience.exit => {
                let force = *pressure != Pressure::None;
                (*pressure, *since) = (if force { Pressure::Kill } else { Pressure::Terminate }, now);
                self.commands.push(Command::End { generation: self.generation, force });
            }
            Phase::Suspecting(suspicion) if now - suspicion.since >= patience.cause => self.resolve(now),
            Phase::Starting(since) if now - *since >= patience.start => {
                let missing = self.workers.missing(self.options.world);
                let cause = format!("no greeting from rank {missing} within {} s", patience.start.as_secs());
                self.fail(None, 0, FailureKind::Fault, cause, now);
            }
            Phase::Starting(_) | Phase::Running => {
                if let Some(worker) = self.workers.most_silent().filter(|worker| now - worker.heard >= patience.silence) {
                    let (rank, step) = (worker.hello.rank, worker.step);
                    let cause = format!("no sign of life for {} s", patience.silence.as_secs());
                    self.fail(Some(rank), step, FailureKind::Fault, cause, now);
                }
            }
            _ => {}
        }
    }

    fn refuse(&mut self, connection: Connection, reason: String) {
        self.tell(connection, ToWorker::Kill { reason });
        self.commands.push(Command::Close { connection });
    }

    fn tell(&mut self, connection: Connection, message: ToWorker) {
        self.commands.push(Command::Tell { connection, message });
    }

    /// Tells everyone who has not said the last message: those who have are on their way out.
    pub(super) fn tell_all(&mut self, message: &ToWorker) {
        for connection in self.workers.unfinished() {
            self.tell(connection, message.clone());
        }
    }

    pub(super) fn record(&mut self, event: journal::Event, reason: impl Into<String>) {
        self.commands.push(Command::Record { generation: self.generation, event, reason: reason.into() });
    }
}
