//! The workers of one generation and their guards, as far as they have made themselves known.

use std::collections::{BTreeSet, HashMap};

use common::control::{Checkup, Connection, Hello, Phase, ProcessEnd, Pulse, Role, Spent};

use super::Time;
use super::checkup::Checked;

/// One worker that was welcomed.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    /// Its connection.
    pub(super) connection: Connection,
    /// Who it is.
    pub(crate) hello: Hello,
    /// Its last heartbeat.
    pub(crate) pulse: Pulse,
    /// Units of work done.
    pub(crate) step: u64,
    /// How its device does, once it has tried.
    pub(crate) checkup: Option<Checkup>,
    /// Its last sign of life.
    pub(crate) heard: Time,
    /// Whether it has said its last message.
    pub(crate) finished: bool,
    /// Whether that was a good one.
    pub(super) done: bool,
    /// Whether its connection is open.
    pub(crate) connected: bool,
}

/// The guard of one worker.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) connection: Connection,
    pub(super) host: String,
    pub(super) connected: bool,
    /// How the process that it guards ended, once it has.
    pub(super) end: Option<ProcessEnd>,
}

/// Both processes of one rank.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) worker: Option<Worker>,
    pub(super) guard: Option<Guard>,
}

impl Member {
    /// Whether the worker is known to be gone: its guard has said so, or neither of the two can be heard any more. A worker without its
    /// guard, or without its coordinator, ends itself.
    fn is_gone(&self) -> bool {
        let silent = self.worker.as_ref().is_none_or(|worker| !worker.connected);
        self.guard.as_ref().is_some_and(|guard| guard.end.is_some() || (silent && !guard.connected))
    }

    /// The worker's checkup, once it is there.
    fn checked(&self) -> Option<Checked<'_>> {
        let worker = self.worker.as_ref()?;
        Some(Checked { rank: worker.hello.rank, host: &worker.hello.host, checkup: worker.checkup.as_ref()? })
    }

    /// Its host, as far as known.
    pub(super) fn host(&self) -> Option<&str> {
        let worker = self.worker.as_ref().map(|worker| worker.hello.host.as_str());
        worker.or(self.guard.as_ref().map(|guard| guard.host.as_str()))
    }
}

/// All workers and guards of the generation that were welcomed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workers {
    members: Vec<Member>,
    connections: HashMap<Connection, (usize, Role)>,
}

impl Workers {
    /// Nobody yet of `world` ranks.
    pub(super) fn expecting(world: usize) -> Self {
        Self { members: vec![Member::default(); world], connections: HashMap::new() }
    }

    pub(super) fn add(&mut self, connection: Connection, hello: Hello, now: Time) {
        let Some(member) = self.members.get_mut(hello.rank) else { return };
        self.connections.insert(connection, (hello.rank, hello.role));
        match hello.role {
            Role::Worker => {
                let pulse = Pulse { step: 0, phase: Phase::Starting, phase_seconds: 0.0, spent: Spent::default() };
                let (step, checkup, heard) = (0, None, now);
                let (finished, done, connected) = (false, false, true);
                member.worker = Some(Worker { connection, hello, pulse, step, checkup, heard, finished, done, connected });
            }
            Role::Guard => member.guard = Some(Guard { connection, host: hello.host, connected: true, end: None }),
        }
    }

    /// Rank and role behind a connection of this generation.
    pub(super) fn who(&self, connection: Connection) -> Option<(usize, Role)> {
        self.connections.get(&connection).copied()
    }

    pub(super) fn member(&self, rank: usize) -> Option<&Member> {
        self.members.get(rank)
    }

    pub(super) fn member_mut(&mut self, rank: usize) -> Option<&mut Member> {
        self.members.get_mut(rank)
    }

    /// Whether somebody with that role and rank has been welcomed.
    pub(super) fn has(&self, rank: usize, role: Role) -> bool {
        self.members.get(rank).is_some_and(|member| match role {
            Role::Worker => member.worker.is_some(),
            Role::Guard => member.guard.is_some(),
        })
    }

    /// All of them go on from an earlier step.
    pub(super) fn go_back(&mut self, step: u64) {
        let workers = self.members.iter_mut().filter_map(|member| member.worker.as_mut());
        workers.for_each(|worker| worker.step = worker.step.min(step));
    }

    /// The worker with that rank.
    pub(super) fn rank(&self, rank: usize) -> Option<&Worker> {
        self.members.get(rank)?.worker.as_ref()
    }

    /// In the order of their ranks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.members.iter().filter_map(|member| member.worker.as_ref())
    }

    /// How many have been welcomed.
    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    /// How many have done all they were to do, or stopped in order.
    pub(super) fn done(&self) -> usize {
        self.iter().filter(|worker| worker.done).count()
    }

    /// The checkups of all ranks, in their order; none before the last one is there.
    pub(super) fn checkups(&self) -> Option<Vec<Checked<'_>>> {
        self.members.iter().map(Member::checked).collect()
    }

    /// Connections of workers that have not said their last message.
    pub(super) fn unfinished(&self) -> Vec<Connection> {
        let unfinished = self.iter().filter(|worker| worker.connected && !worker.finished);
        unfinished.map(|worker| worker.connection).collect()
    }

    /// Connections of guards whose worker may still be there.
    pub(super) fn guarding(&self) -> Vec<Connection> {
        let guards = self.members.iter().filter_map(|member| member.guard.as_ref());
        guards.filter(|guard| guard.connected && guard.end.is_none()).map(|guard| guard.connection).collect()
    }

    /// All connections that are open.
    pub(super) fn connected(&self) -> Vec<Connection> {
        let workers = self.iter().filter(|worker| worker.connected).map(|worker| worker.connection);
        let guards = self.members.iter().filter_map(|member| member.guard.as_ref()).filter(|guard| guard.connected);
        workers.chain(guards.map(|guard| guard.connection)).collect()
    }

    /// Whether one worker is connected and has not said its last message.
    pub(super) fn any_open(&self) -> bool {
        self.iter().any(|worker| worker.connected && !worker.finished)
    }

    /// Whether every rank has a guard.
    pub(super) fn all_guarded(&self) -> bool {
        self.members.iter().all(|member| member.guard.is_some())
    }

    /// Whether every worker is known to be gone, or on a host that does not answer.
    pub(super) fn all_gone(&self, lost: &BTreeSet<String>) -> bool {
        self.members.iter().all(|member| member.is_gone() || member.host().is_some_and(|host| lost.contains(host)))
    }

    /// Whether no guard on `host` can be heard any more, and none has told how its worker ended.
    pub(super) fn host_is_silent(&self, host: &str) -> bool {
        let mut guards =
            self.members.iter().filter_map(|member| member.guard.as_ref()).filter(|guard| guard.host == host).peekable();
        guards.peek().is_some() && guards.all(|guard| !guard.connected && guard.end.is_none())
    }

    /// The unfinished worker that has been silent since the earliest time.
    pub(super) fn most_silent(&self) -> Option<&Worker> {
        self.iter().filter(|worker| worker.connected && !worker.finished).min_by_key(|worker| worker.heard)
    }

    /// Ranks that have not reported, as in `1, 3 and 4`, at most five of them by name.
    pub(super) fn missing(&self) -> String {
        let missing = self.members.iter().enumerate().filter(|(_, member)| member.worker.is_none());
        let missing: Vec<String> = missing.map(|(rank, _)| rank.to_string()).collect();
        match missing.split_last() {
            Some((last, [])) => last.clone(),
            Some(_) if missing.len() > 5 => format!("{} and {} others", missing[..5].join(", "), missing.len() - 5),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}
