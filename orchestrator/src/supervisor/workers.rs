//! The workers of one generation, as far as they have made themselves known.

use std::collections::BTreeMap;

use common::control::{Connection, Hello};

use super::Time;

/// One worker that was welcomed.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    /// Who it is.
    pub(crate) hello: Hello,
    /// Units of work done.
    pub(crate) step: u64,
    /// Its last sign of life.
    pub(crate) heard: Time,
    /// Whether it has said its last message.
    pub(crate) finished: bool,
    /// Whether its connection is open.
    pub(crate) connected: bool,
}

/// All workers of the generation that were welcomed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workers(BTreeMap<Connection, Worker>);

impl Workers {
    pub(super) fn add(&mut self, connection: Connection, hello: Hello, now: Time) {
        self.0.insert(connection, Worker { hello, step: 0, heard: now, finished: false, connected: true });
    }

    pub(super) fn get_mut(&mut self, connection: Connection) -> Option<&mut Worker> {
        self.0.get_mut(&connection)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The worker with that rank.
    pub(super) fn rank(&self, rank: usize) -> Option<&Worker> {
        self.iter().find(|worker| worker.hello.rank == rank)
    }

    /// In the order in which they joined.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.0.values()
    }

    /// Those that have not said their last message.
    pub(super) fn unfinished(&self) -> Vec<Connection> {
        self.0.iter().filter(|(_, worker)| worker.connected && !worker.finished).map(|(connection, _)| *connection).collect()
    }

    /// Those that can still be told something.
    pub(super) fn connected(&self) -> Vec<Connection> {
        self.0.iter().filter(|(_, worker)| worker.connected).map(|(connection, _)| *connection).collect()
    }

    pub(super) fn finished(&self) -> usize {
        self.iter().filter(|worker| worker.finished).count()
    }

    /// Whether one of them is connected and has not said its last message.
    pub(super) fn any_open(&self) -> bool {
        self.iter().any(|worker| worker.connected && !worker.finished)
    }

    /// The unfinished worker that has been silent since the earliest time.
    pub(super) fn most_silent(&self) -> Option<&Worker> {
        self.iter().filter(|worker| worker.connected && !worker.finished).min_by_key(|worker| worker.heard)
    }

    /// Ranks below `world` that are not among them, as in `1, 3 and 4`.
    pub(super) fn missing(&self, world: usize) -> String {
        let missing: Vec<String> = (0..world).filter(|rank| self.rank(*rank).is_none()).map(|rank| rank.to_string()).collect();
        match missing.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}
