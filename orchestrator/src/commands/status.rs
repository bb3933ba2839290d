//! `orchestrator status`: where a run and its jobs stand, from files alone, whether anything is running or not.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use common::job::Job;
use common::run_dir::RunDir;
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::coordinator::{Status, describe};
use crate::exit::{Failure, OrBadInput};
use crate::run_folder::FolderError;
use crate::supervisor::State;

/// A running coordinator writes every second; after this long without it is taken for gone.
const STALE: Duration = Duration::from_secs(15);

/// One job's status and what its age says about it.
#[derive(Debug, Serialize)]
struct View {
    #[serde(flatten)]
    status: Status,
    /// Whether the launch neither ended nor has written for a while: its coordinator was killed.
    vanished: bool,
}

/// Prints it.
pub(crate) fn run(run: PathBuf, json: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(&run);
    let mut views = Vec::new();
    for job in Job::ALL {
        views.extend(read(&folder.job_dir(job))?);
    }
    if views.is_empty() {
        return Err(FolderError::NoRun { folder: run }).or_bad_input();
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&views)?);
    } else {
        println!("{}", folder.path().display());
        views.iter().for_each(print);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(folder: &RunDir) -> Result<Option<View>, Failure> {
    let path = folder.status();
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let status: Status = serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))?;
    let updated = humantime::parse_rfc3339(&status.updated).unwrap_or(SystemTime::UNIX_EPOCH);
    // A clock of another host may be ahead of ours: then the file is certainly fresh.
    let age = SystemTime::now().duration_since(updated).unwrap_or_default();
    let vanished = status.exit_code.is_none() && age > STALE;
    Ok(Some(View { status, vanished }))
}

fn print(view: &View) {
    let Status { job, state, generation, world, workers, progress, checkpoint, failure, .. } = &view.status;
    let word = if view.vanished { "vanished (its orchestrator was killed)".into() } else { format!("{state:?}").to_lowercase() };
    let bad = view.vanished || *state == State::Failed;
    let word = match (io::stdout().is_terminal(), bad) {
        (false, _) => word,
        (true, true) => word.red().to_string(),
        (true, false) => word.green().to_string(),
    };
    println!("\n{job}: {word}, generation {generation}, as of {}", view.status.updated);
    if let Some(progress) = progress {
        println!("  {}", describe(progress));
    }
    if let Some(step) = checkpoint {
        println!("  newest checkpoint of this launch at step {step}");
    }
    if let Some(failure) = failure {
        println!("  last failure: {failure}");
    }
    if view.status.exit_code.is_none() && !view.vanished {
        println!("  {} of {world} workers have reported", workers.len());
        for worker in workers {
            let connected = if worker.connected { "" } else { ", connection closed" };
            println!(
                "    rank {:<4} {} on {} (process {}), at {}{connected}",
                worker.rank, worker.device, worker.host, worker.pid, worker.step
            );
        }
    }
}
