//! `orchestrator status`: where a run and its jobs stand, on one screen however many workers there are.

#[cfg(test)]
mod tests;
pub(super) mod text;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use common::job::Job;
use common::run_dir::RunDir;
use serde::Serialize;
use serde_json::json;

use super::output::{colours, print};
use crate::coordinator::Status;
use crate::exit::{Failure, OrBadInput};
use crate::observe::{Forecast, Observer, Queue, Standing, View, Wanted, jobs};
use crate::run_folder::FolderError;
use crate::story::{Books, Incident};

/// Metrics beyond this many bytes (about 100,000 records) are left to `goodput`, so that this command stays quick.
const METRICS: u64 = 32 << 20;

/// One job, for scripts.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    written: Written<'a>,
    /// Whether the launch neither ended nor has written for a while: its coordinator was killed.
    vanished: bool,
    /// Where the job stands, whatever its status was when it was written.
    standing: Standing,
    /// What Slurm says, if the job waits for it.
    queue: Option<&'a Queue>,
    /// Time of the newest sign of life, in seconds before now.
    silent_seconds: Option<f64>,
    /// Steps of the newest checkpoint of all launches, and its age in seconds.
    newest_checkpoint: Option<(u64, f64)>,
    /// Time left, time until the allocation ends, further allocations needed.
    forecast: Option<Forecast>,
    /// Useful share of the time with hosts.
    goodput: Option<f64>,
    /// Seconds per book.
    books: Option<Books>,
    /// The newest failure of all launches, and what was done about it.
    last_failure: Option<&'a Incident>,
}

/// The status file, or what can be said without one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Status(&'a Status),
    Nothing { job: Job, state: Standing, slurm_job: Option<&'a str> },
}

/// Prints it.
pub(crate) fn run(run: PathBuf, json: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(&run);
    let mut jobs = jobs(&folder);
    if jobs.is_empty() {
        return Err(FolderError::NoRun { folder: run }).or_bad_input();
    }
    let wanted = Wanted { crowd: false, metrics: METRICS };
    if json {
        jobs.sort_by_key(|job| Job::ALL.iter().position(|other| other == job));
    }
    let observed = jobs.iter().map(|job| Observer::new(&folder, *job, wanted)).collect::<anyhow::Result<Vec<_>>>()?;
    let views: Vec<(&Observer, View)> = observed.iter().map(|observer| (observer, View::of(observer))).collect();
    if json {
        let queues: Vec<Option<Queue>> = views.iter().map(|(_, view)| view.ask_slurm()).collect();
        let reports = views.iter().zip(&queues).map(|((observer, view), queue)| report(observer, view, queue.as_ref()));
        print(&format!("{:#}\n", json!(reports.collect::<Vec<_>>())))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut screen = format!("{}\n\n", run.display());
    for (index, (observer, view)) in views.iter().enumerate() {
        match index {
            0 => screen += &text::screen(observer, view, view.ask_slurm().as_ref(), colours()),
            _ => screen += &text::line(observer, view, colours()),
        }
    }
    print(&screen)?;
    Ok(ExitCode::SUCCESS)
}

fn report<'a>(observer: &'a Observer, view: &'a View, queue: Option<&'a Queue>) -> Report<'a> {
    let written = match &observer.status {
        Some(status) => Written::Status(status),
        None => Written::Nothing { job: observer.job, state: view.standing, slurm_job: view.waits_for() },
    };
    Report {
        written,
        vanished: view.standing == Standing::Vanished,
        standing: view.standing,
        queue,
        silent_seconds: view.sign.map(|sign| view.ago(sign).as_secs_f64()),
        newest_checkpoint: view.checkpoint.map(|(step, when)| (step, view.ago(when).as_secs_f64())),
        forecast: view.forecast,
        goodput: view.ledger.as_ref().and_then(|ledger| ledger.books.goodput()),
        books: view.ledger.as_ref().map(|ledger| ledger.books),
        last_failure: view.failure.as_ref(),
    }
}
