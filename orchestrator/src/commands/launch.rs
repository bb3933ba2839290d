//! `orchestrator launch`: start the workers of a run and stay with them to the end.

use std::process::ExitCode;

use anyhow::Context;
use common::run_dir::RunDir;

use super::logs::tail;
use super::prepare::{Prepared, prepare};
use super::summary;
use crate::cli::RunArguments;
use crate::coordinator::{self, Display, Launch};
use crate::exit::{Failure, OrBadInput};
use crate::preflight;
use crate::run_folder;
use crate::supervisor::{self, Outcome};

/// Lines of the failed worker's log that are shown.
const LOG_LINES: usize = 8;

/// Launches and waits.
pub(crate) fn run(arguments: &RunArguments, json: bool) -> Result<ExitCode, Failure> {
    let Prepared { config, job, run, intent, launcher, spec } = prepare(arguments)?;
    preflight::check_worker(&spec.worker).or_bad_input()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(preflight::check_data(&config, job)).or_bad_input()?;

    let claim = run_folder::claim(&run, &config, job, intent).or_bad_input()?;
    let folder = run.job_dir(job);
    let launch = Launch {
        job,
        folder: folder.clone(),
        journal: claim.journal,
        first_generation: claim.next_generation,
        max_restarts: config.cluster.max_restarts,
        launcher,
        spec,
    };
    let outcome = runtime.block_on(coordinator::run(launch, Display::new(json)))?;
    report(&outcome, &run, &folder, json)?;
    Ok(ExitCode::from(outcome.exit_code()))
}

/// Says how it ended: figures on standard output, failures on standard error.
fn report(outcome: &Outcome, run: &RunDir, folder: &RunDir, json: bool) -> Result<(), Failure> {
    let resume = format!("go on with `orchestrator launch --resume {}`", run.path().display());
    match outcome {
        Outcome::Done(value) if json => println!("{}", serde_json::to_string_pretty(value)?),
        Outcome::Done(value) => print!("{}", summary::text(value)),
        Outcome::Stopped { signal, saved } => {
            let name = signal.name();
            let what = if *saved { "stopped in order" } else { "ended before everything was saved" };
            eprintln!("{what} after {name}; {resume}");
        }
        Outcome::BadInput(failure) => eprintln!("error: {failure}"),
        Outcome::Failed { failure, restarts } => {
            eprintln!("error: {failure} (generation {}, step {})", failure.generation, failure.step);
            if *restarts > 0 {
                eprintln!("gave up after {restarts} restarts without a new checkpoint in between");
            }
            show_log(failure, folder);
        }
    }
    Ok(())
}

/// The last lines of the log that knows most about the failure.
fn show_log(failure: &supervisor::Failure, folder: &RunDir) {
    let launcher = folder.launcher_log(failure.generation);
    let own = failure.rank.map(|rank| folder.log_file(failure.generation, rank));
    for path in own.into_iter().chain([launcher]) {
        let lines = tail(&path, LOG_LINES).unwrap_or_default();
        if !lines.is_empty() {
            eprintln!("the last lines of {}:", path.display());
            lines.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}
