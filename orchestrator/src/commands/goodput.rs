//! `orchestrator goodput`: where the time of a run went, and how often it should save.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use common::config::load;
use common::job::Job;
use common::run_dir::RunDir;
use serde_json::json;

use super::output::print;
use super::words::{brief, brief_seconds, counted, percent};
use crate::exit::Failure;
use crate::observe::{Observer, View, Wanted, chosen_job};
use crate::story::{Book, Ledger, Suggestion};

/// Prints it.
pub(crate) fn run(run: PathBuf, job: Option<Job>, json: bool) -> Result<ExitCode, Failure> {
    let run = RunDir::new(run);
    let job = chosen_job(&run, job)?;
    let observer = Observer::new(&run, job, Wanted { crowd: false, metrics: u64::MAX })?;
    let Some(ledger) = View::of(&observer).ledger else {
        return Err(Failure::bad_input(format!("{}: no launch here yet", observer.folder.journal().display())));
    };
    let suggestion = Suggestion::of(&ledger);
    if json {
        let Ledger { books, failures, checkpoints, .. } = &ledger;
        let text = json!({
            "job": job, "elapsed": ledger.elapsed().as_secs_f64(), "allocated": books.allocated().as_secs_f64(),
            "goodput": books.goodput(), "books": books, "failures": failures, "checkpoints": checkpoints, "suggestion": suggestion,
        });
        print(&format!("{text:#}\n"))?;
    } else {
        print(&table(&ledger, suggestion, every_steps(&observer.folder.run_toml())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkpoint interval of the run, as far as its configuration can be read.
fn every_steps(run_toml: &Path) -> Option<u64> {
    load::from_file(run_toml, &[]).ok().map(|config| config.checkpoint.every_steps)
}

fn table(ledger: &Ledger, suggestion: Option<Suggestion>, every_steps: Option<u64>) -> String {
    let elapsed = ledger.elapsed().as_secs_f64();
    let mut text = String::new();
    for book in Book::ALL {
        let time = ledger.books.get(book);
        if time == Duration::ZERO {
            continue;
        }
        let share = time.as_secs_f64() / elapsed;
        let bar = "#".repeat((share * 30.0).round() as usize);
        let _ =
            writeln!(text, "{:<12} {:>10} {:>7}  {:<30}  {}", book.name(), brief(time), percent(share), bar, book.explanation());
    }
    let _ = writeln!(text, "{:<12} {:>10} {:>7}", "all", brief(ledger.elapsed()), percent(1.0));
    let _ = writeln!(text, "\n{}", sentence(ledger));
    if let Some(suggestion) = suggestion {
        let _ = writeln!(text, "{}", advice(ledger, suggestion, every_steps));
    }
    text
}

/// How often the run should save, and why.
pub(super) fn advice(ledger: &Ledger, suggestion: Suggestion, every_steps: Option<u64>) -> String {
    let Suggestion { seconds, steps, cost, between_failures } = suggestion;
    let now = every_steps.map_or_else(String::new, |every| format!(" (now {every})"));
    format!(
        "checkpoint.every_steps = {steps}{now} would lose the least time: one save per {}, as a save holds the steps up for {} and \
         a failure comes every {} (Daly 2006; {} so far)",
        brief_seconds(seconds),
        brief_seconds(cost),
        brief_seconds(between_failures),
        counted(ledger.failures, "failure")
    )
}

/// The goodput in one line.
pub(super) fn sentence(ledger: &Ledger) -> String {
    let books = &ledger.books;
    let Some(goodput) = books.goodput() else { return format!("no hosts yet; {} in the queue", brief(books.get(Book::Queue))) };
    let losses = Book::ALL.into_iter().filter(|book| !matches!(book, Book::Useful | Book::Queue | Book::Stopped));
    let mut losses: Vec<(Book, Duration)> = losses.map(|book| (book, books.get(book))).collect();
    losses.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let allocated = books.allocated().as_secs_f64();
    let worth_a_word = |time: &Duration| time.as_secs_f64() >= 0.005 * allocated;
    let losses: Vec<String> = losses
        .iter()
        .filter(|(_, time)| worth_a_word(time))
        .take(4)
        .map(|(book, time)| format!("{} {}", book.name(), percent(time.as_secs_f64() / allocated)))
        .collect();
    let rest = if losses.is_empty() { String::new() } else { format!(" ({})", losses.join(", ")) };
    format!("{} of {} with hosts was useful{rest}", percent(goodput), brief(books.allocated()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::testing::{at, failed, launched, record, started};
    use crate::story::{Present, testing::START};
    use common::journal::Event;

    #[test]
    fn the_table_names_losses_and_a_better_interval() {
        let mut entries = vec![at(0.0, 1, launched(None)), at(0.0, 1, started()), at(10.0, 1, Event::FirstStep { step: 1 })];
        entries.extend([at(90.0, 1, Event::CheckpointCommitted { step: 50, seconds: 2.0 }), at(110.0, 1, failed(101))]);
        let records = [record(110.0, 1, 101, 100.0)];
        let now = Duration::from_secs(START + 130);
        let ledger = Ledger::keep(&entries, &records, Present { now, seen: now }).unwrap();
        assert_eq!(sentence(&ledger), "77 % of 2m 10s with hosts was useful (restart 15 %, start 7.7 %)");
        let text = table(&ledger, Suggestion::of(&ledger), Some(1000));
        assert!(text.contains("restart            20 s    15 %  #####  "), "{text}");
        assert!(text.contains("checkpoint.every_steps = 21 (now 1000)") && text.contains("every 2m 10s"), "{text}");
        assert!(!text.contains("queue"), "{text}");
    }
}
