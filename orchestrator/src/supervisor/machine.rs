//! The state machine: its state, the way from events to commands, and what time alone brings about. What it makes of events is next door
//! in `hearing`, how a generation ends and what follows in `ending`.

use common::control::{Connection, Evaluation, FailureKind, ProcessEnd, Role, ToWorker};
use common::job::Job;
use common::journal;
use serde_json::Value;

use super::checkup::Findings;
use super::ending::{Pressure, Verdict};
use super::hang::Investigation;
use super::hosts::Hosts;
use super::pace::{Pace, Recent};
use super::saving::Wish;
use super::suspicion::{Candidate, Suspicion, Telling};
use super::workers::Workers;
use super::{Command, Event, Failure, Options, Setbacks, State, StopReason, Time, Unsaved};

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
    /// Where the workers of this generation meet in NCCL, once rank 0 has said so.
    pub(super) rendezvous: Option<String>,
    /// What the checkups of its workers say together, once all are there.
    pub(super) findings: Option<Findings>,
    pub(super) restarts: usize,
    pub(super) checkpoint: Option<u64>,
    pub(super) longest_save: f64,
    pub(super) setbacks: Setbacks,
    /// The newest evaluation of this launch.
    pub(super) evaluation: Option<Evaluation>,
    /// The checkpoint that was not saved, if none was since.
    pub(super) unsaved: Option<Unsaved>,
    pub(super) failed_saves: u64,
    pub(super) wish: Wish,
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
            rendezvous: None,
            findings: None,
            restarts: 0,
            checkpoint: None,
            longest_save: 0.0,
            setbacks: Setbacks::default(),
            evaluation: None,
            unsaved: None,
            failed_saves: 0,
            wish: Wish::default(),
            summary: Value::Null,
            stop: None,
            deadline: None,
            failure: None,
            commands: Vec::new(),
            options,
        };
        let (job, version) = (this.options.job, this.options.version.clone());
        let (slurm_job, host, revisions) =
            (this.options.slurm_job.clone(), this.options.host.clone(), this.options.revisions.clone());
        let world = this.options.nodes * this.options.workers_per_node;
        this.record(journal::Event::Launched { job, world, version, slurm_job, host, revisions }, "orchestrator launch");
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
                Event::Save(who) => self.save(&format!("{who} received"), now),
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

    /// What the checkups of all its workers say together.
    pub(crate) fn findings(&self) -> Option<&Findings> {
        self.findings.as_ref()
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

    /// How often training went on after gradients that were no numbers.
    pub(crate) fn setbacks(&self) -> Setbacks {
        self.setbacks
    }

    /// How the model did on held-out images, the last time that this launch looked.
    pub(crate) fn evaluation(&self) -> Option<&Evaluation> {
        self.evaluation.as_ref()
    }

    /// The checkpoint that was not saved, if none was since.
    pub(crate) fn unsaved(&self) -> Option<&Unsaved> {
        self.unsaved.as_ref()
    }

    /// Checkpoints of this launch that were not saved.
    pub(crate) fn failed_saves(&self) -> u64 {
        self.failed_saves
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
            && now.saturating_sub(since) >= patience.stop.max(self.time_to_save())
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

    pub(super) fn refuse(&mut self, connection: Connection, reason: String) {
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
