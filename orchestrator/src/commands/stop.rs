//! `orchestrator stop`: let a run save and end, by a file in its folder, so that it works from every host that sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::job::Job;
use common::journal::{self, Event, Journal};
use common::run_dir::RunDir;

use crate::coordinator::Status;
use crate::exit::{Failure, OrBadInput};
use crate::slurm;
use crate::story::{InCharge, Outline};

/// How long a coordinator may take to see the file.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks, and returns when the coordinator has heard it.
pub(crate) fn run(run: PathBuf, job: Job) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(run).job_dir(job);
    let entries = journal::read(&folder.journal()).or_bad_input()?;
    if let Some(InCharge { job: number, launched: false }) = Outline::of(&entries).in_charge() {
        slurm::cancel(&number).or_bad_input()?;
        let mut journal = Journal::open(&folder.journal())?;
        journal.append(0, Event::Ended { exit_code: 143 }, "orchestrator stop, while it was queued")?;
        println!("Slurm job {number}, which was queued, is cancelled");
        return Ok(ExitCode::SUCCESS);
    }
    if Status::read(&folder.status()).is_none_or(|status| status.exit_code.is_some()) {
        return Err(Failure::bad_input(format!("{}: nothing is running here", folder.path().display())));
    }
    let request = folder.stop_request();
    fs::write(&request, []).with_context(|| format!("cannot write {}", request.display()))?;
    hand_in(&request, &folder)?;
    let save = if job.keeps_progress() { "save at their next step and " } else { "" };
    println!("asked to stop: the workers {save}end");
    Ok(ExitCode::SUCCESS)
}

/// Returns when the coordinator of `folder` has taken the file `request` away.
pub(super) fn hand_in(request: &Path, folder: &RunDir) -> Result<(), Failure> {
    let asked = Instant::now();
    while request.exists() {
        if asked.elapsed() > PATIENCE {
            // Nobody shall find it there later, in another launch.
            let _ = fs::remove_file(request);
            let text = format!(
                "{}: no coordinator has taken the request within {} s; it was killed",
                folder.path().display(),
                PATIENCE.as_secs()
            );
            return Err(Failure::bad_input(text));
        }
        sleep(LOOK_AGAIN);
    }
    Ok(())
}
