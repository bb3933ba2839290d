//! The workers of a job on a few lines: each of them when they are few; else their hosts in sum, and by name only those that stand out.

use std::collections::{BTreeMap, BTreeSet};

use common::control::Spent;

use crate::commands::words::{brief_seconds, counted, percent, ranges};
use crate::coordinator::{Status, WorkerStatus};

/// Up to this many are shown one by one.
const FEW: usize = 16;
/// Of those that stand out, so many of a kind are named.
const NAMED: usize = 4;

/// The rows of the screen.
pub(super) fn rows(status: &Status) -> Vec<(&'static str, String)> {
    let workers = &status.workers;
    let connected = workers.iter().filter(|worker| worker.connected).count();
    let hosts: BTreeSet<&str> = workers.iter().map(|worker| worker.host.as_str()).collect();
    let mut summary = format!("{connected} of {} connected, on {}", status.world, counted(hosts.len(), "host"));
    let known: BTreeSet<usize> = workers.iter().map(|worker| worker.rank).collect();
    let missing: Vec<usize> = (0..status.world).filter(|rank| !known.contains(rank)).collect();
    if !missing.is_empty() && !workers.is_empty() {
        summary += &format!("; not heard of: rank {}", ranges(missing));
    }
    let mut rows = vec![("workers", summary)];
    if workers.len() <= FEW {
        rows.extend(workers.iter().map(|worker| ("", each(worker))));
    } else {
        rows.extend(in_sum(workers).map(|text| ("", text)));
        rows.extend(outstanding(workers).into_iter().map(|text| ("", text)));
    }
    rows
}

fn each(worker: &WorkerStatus) -> String {
    let WorkerStatus { rank, host, device, step, .. } = worker;
    let mut text = format!("rank {rank:<3} {device} on {host}, at {step}, ");
    text += &if worker.connected { doing(worker) } else { "connection closed".into() };
    if let Some(shares) = shares(&worker.recent) {
        text += &format!("; {shares}");
    }
    if worker.straggler { text + "; KEEPS THE OTHERS WAITING" } else { text }
}

/// `computing`, and for how long where that is worth a word.
fn doing(worker: &WorkerStatus) -> String {
    let what = worker.phase.doing();
    if worker.phase_seconds >= 10.0 { format!("{what} for {}", brief_seconds(worker.phase_seconds)) } else { what.into() }
}

/// `80 % computing, 15 % in the collective`, the largest first.
fn shares(spent: &Spent) -> Option<String> {
    let parts = parts(spent);
    let total: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    let mut parts: Vec<(f64, &str)> = parts.iter().map(|(name, seconds)| (seconds / total, *name)).collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let words: Vec<String> =
        parts.iter().filter(|(share, _)| *share >= 0.01).map(|(share, name)| format!("{} {name}", percent(*share))).collect();
    (total > 0.0 && !words.is_empty()).then(|| words.join(", "))
}

fn parts(spent: &Spent) -> [(&'static str, f64); 6] {
    let Spent { starting, data, compute, collective, checkpoint, evaluate } = *spent;
    [
        ("starting", starting),
        ("data", data),
        ("computing", compute),
        ("collective", collective),
        ("checkpoint", checkpoint),
        ("evaluation", evaluate),
    ]
}

/// Steps, phases and time shares of all.
fn in_sum(workers: &[WorkerStatus]) -> impl Iterator<Item = String> {
    let steps = workers.iter().map(|worker| worker.step);
    let steps = steps.clone().min().zip(steps.max()).map(|(least, most)| match least == most {
        true => format!("all at {most}"),
        false => format!("at {least} to {most}"),
    });
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    workers.iter().filter(|worker| worker.connected).for_each(|worker| *phases.entry(worker.phase.doing()).or_default() += 1);
    let mut phases: Vec<(usize, &str)> = phases.into_iter().map(|(name, count)| (count, name)).collect();
    phases.sort_unstable_by(|a, b| b.cmp(a));
    let phases: Vec<String> = phases.iter().map(|(count, name)| format!("{count} {name}")).collect();
    let sum = workers.iter().fold(Spent::default(), |sum, worker| sum + worker.recent);
    let first = steps.into_iter().chain(phases).collect::<Vec<_>>().join(", ");
    [Some(first), shares(&sum).map(|shares| format!("time of all: {shares}"))].into_iter().flatten()
}

/// Those that keep the others waiting, that are gone, and the slowest.
fn outstanding(workers: &[WorkerStatus]) -> Vec<String> {
    let name = |worker: &&WorkerStatus| format!("rank {} on {}", worker.rank, worker.host);
    let list = |what: &str, found: Vec<&WorkerStatus>| {
        let shown: Vec<String> = found.iter().take(NAMED).map(name).collect();
        let more = found.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!found.is_empty()).then(|| format!("{what}: {}{more}", shown.join(", ")))
    };
    let gone = list("connection closed", workers.iter().filter(|worker| !worker.connected).collect());
    let stragglers = list("KEEP THE OTHERS WAITING", workers.iter().filter(|worker| worker.straggler).collect());
    let mut timed: Vec<(f64, &WorkerStatus)> =
        workers.iter().filter_map(|worker| Some((worker.compute_per_step?, worker))).collect();
    timed.sort_by(|a, b| b.0.total_cmp(&a.0));
    let median = timed.get(timed.len() / 2).map_or(0.0, |(seconds, _)| *seconds);
    let slowest: Vec<String> =
        timed.iter().take(NAMED).map(|(seconds, worker)| format!("{} {:.0} ms", name(worker), seconds * 1e3)).collect();
    let slowest =
        (!slowest.is_empty()).then(|| format!("slowest to compute a step: {} (median {:.0} ms)", slowest.join(", "), median * 1e3));
    [gone, stragglers, slowest].into_iter().flatten().collect()
}
