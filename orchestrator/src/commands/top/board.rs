//! What there is to see of a run: words and figures, ready to be painted.

use std::path::Path;
use std::time::Duration;

use common::journal::Entry;

use super::rows::{Row, hosts, ranks};
use crate::commands::status::text::{facts, heading};
use crate::commands::words::{brief, percent};
use crate::observe::{Observer, Queue, Standing, View};
use crate::story::{Book, Curve};

/// Points of a curve; a terminal has fewer.
const POINTS: usize = 512;
/// Journal entries that may find a place.
const ENTRIES: usize = 40;

/// Everything on the screen.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    /// The run's folder.
    pub(super) run: String,
    /// `train: running, generation 2`.
    pub(super) heading: String,
    /// Whether that is bad news.
    pub(super) bad: bool,
    /// Share of the work that is done, and that in words.
    pub(super) progress: Option<(f64, String)>,
    /// Names and what is known about them.
    pub(super) facts: Vec<(&'static str, String)>,
    /// One row per rank, those that stand out first.
    pub(super) ranks: Vec<Row>,
    /// One row per host.
    pub(super) hosts: Vec<Row>,
    /// Loss over steps.
    pub(super) loss: Vec<(f64, f64)>,
    /// Images per second over steps.
    pub(super) speed: Vec<(f64, f64)>,
    /// Where the time went: name, share, time.
    pub(super) books: Vec<(&'static str, f64, Duration)>,
    /// The journal's end, newest last.
    pub(super) journal: Vec<String>,
    /// Why the files could not be read just now.
    pub(super) error: Option<String>,
}

impl Board {
    /// The board of what `observer` has seen.
    pub(super) fn of(run: &Path, observer: &Observer, view: &View, queue: Option<&Queue>) -> Self {
        let alive = view.standing.is_alive();
        let status = observer.status.as_ref();
        let workers = status.filter(|_| alive).map(|status| &status.workers[..]).unwrap_or_default();
        let mut facts = facts(observer, view);
        // `status` has the place for details.
        facts.retain(|(name, _)| !name.is_empty());
        // The bar says so already.
        let progress = facts.iter().position(|(name, _)| *name == "progress").map(|place| facts.remove(place).1);
        let share = status.and_then(|status| status.progress.as_ref()).filter(|progress| progress.total > 0);
        let share = share.map_or(0.0, |progress| (progress.done as f64 / progress.total as f64).clamp(0.0, 1.0));
        Self {
            run: run.display().to_string(),
            heading: format!("{}: {}", observer.job, heading(observer, view, queue, false)),
            bad: view.standing.is_bad() || view.standing == Standing::Stopped,
            progress: progress.map(|text| (share, text)),
            facts,
            ranks: ranks(workers),
            hosts: hosts(workers),
            loss: Curve::of(observer.records(), |record| record.loss).thinned(POINTS),
            speed: Curve::of(observer.records(), |record| record.images_per_second).thinned(POINTS),
            books: books(view),
            journal: observer.entries.iter().rev().take(ENTRIES).rev().map(sentence).collect(),
            error: None,
        }
    }
}

fn books(view: &View) -> Vec<(&'static str, f64, Duration)> {
    let Some(ledger) = &view.ledger else { return Vec::new() };
    let elapsed = ledger.elapsed().as_secs_f64();
    let all = Book::ALL.into_iter().map(|book| (book.name(), ledger.books.get(book)));
    all.filter(|(_, time)| *time > Duration::ZERO).map(|(name, time)| (name, time.as_secs_f64() / elapsed, time)).collect()
}

/// `10:00:00 gen 2 failed, rank 13, step 612: killed by signal 9 (SIGKILL)`.
fn sentence(entry: &Entry) -> String {
    let event = serde_json::to_value(&entry.event).unwrap_or_default();
    let detail = |name: &str| event[name].as_u64().map(|value| format!(", {} {value}", name.replace('_', " ")));
    let details: String = ["rank", "step", "exit_code"].into_iter().filter_map(detail).collect();
    let name = event["event"].as_str().unwrap_or_default().replace('-', " ");
    let reason = if entry.reason.is_empty() { String::new() } else { format!(": {}", entry.reason) };
    format!("{} gen {} {name}{details}{reason}", entry.time.get(11..19).unwrap_or_default(), entry.generation)
}

/// `useful   3h 2m  77 %`.
pub(super) fn book_line((name, share, time): &(&'static str, f64, Duration)) -> String {
    format!("{name:<12}{:>8}{:>7}", brief(*time), percent(*share))
}
