//! The table of a run: one row per rank, or one per host where there are many.

use std::collections::BTreeMap;

use common::control::Spent;

use crate::commands::words::{brief_seconds, ranges};
use crate::coordinator::WorkerStatus;

/// One line of the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    /// Rank, or ranks.
    pub(super) ranks: String,
    /// Host.
    pub(super) host: String,
    /// Units of work done; the least of them.
    pub(super) step: u64,
    /// What is being done, and for how long where that is worth a word.
    pub(super) doing: String,
    /// Shares of the recent time: computing, collective, data, checkpoint; none before any.
    pub(super) shares: Option<[f64; 4]>,
    /// Whether it stands out.
    pub(super) outstanding: bool,
}

/// One row per rank; those that stand out come first.
pub(super) fn ranks(workers: &[WorkerStatus]) -> Vec<Row> {
    let row = |worker: &WorkerStatus| Row {
        ranks: worker.rank.to_string(),
        host: worker.host.clone(),
        step: worker.step,
        doing: doing(worker),
        shares: shares(&worker.recent),
        outstanding: stands_out(worker),
    };
    let mut rows: Vec<Row> = workers.iter().map(row).collect();
    rows.sort_by_key(|row| !row.outstanding);
    rows
}

/// One row per host; what its ranks do is told of the one that has been at it for longest.
pub(super) fn hosts(workers: &[WorkerStatus]) -> Vec<Row> {
    let mut hosts: BTreeMap<&str, Vec<&WorkerStatus>> = BTreeMap::new();
    workers.iter().for_each(|worker| hosts.entry(&worker.host).or_default().push(worker));
    let mut rows: Vec<Row> = hosts.into_iter().map(|(host, workers)| host_row(host, &workers)).collect();
    rows.sort_by_key(|row| !row.outstanding);
    rows
}

fn host_row(host: &str, workers: &[&WorkerStatus]) -> Row {
    let sum = workers.iter().fold(Spent::default(), |sum, worker| sum + worker.recent);
    let longest = workers.iter().max_by(|a, b| {
        let rank = |worker: &WorkerStatus| (stands_out(worker), worker.phase_seconds);
        rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    Row {
        ranks: ranges(workers.iter().map(|worker| worker.rank)),
        host: host.to_owned(),
        step: workers.iter().map(|worker| worker.step).min().unwrap_or(0),
        doing: longest.map_or_else(String::new, |worker| doing(worker)),
        shares: shares(&sum),
        outstanding: workers.iter().any(|worker| stands_out(worker)),
    }
}

fn stands_out(worker: &WorkerStatus) -> bool {
    worker.straggler || !worker.connected
}

fn doing(worker: &WorkerStatus) -> String {
    match (worker.connected, worker.straggler) {
        (false, _) => "connection closed".into(),
        (true, true) => format!("STRAGGLER, {}", worker.phase.doing()),
        (true, false) if worker.phase_seconds >= 3.0 => {
            format!("{}, {}", worker.phase.doing(), brief_seconds(worker.phase_seconds))
        }
        (true, false) => worker.phase.doing().into(),
    }
}

fn shares(spent: &Spent) -> Option<[f64; 4]> {
    let total = spent.total();
    (total > 0.0).then(|| [spent.compute, spent.collective, spent.data, spent.checkpoint].map(|seconds| seconds / total))
}
