//! `launch --wait`: following a run that Slurm has, from its files and from Slurm.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use common::job::Job;
use common::journal::{self, Event};
use common::run_dir::RunDir;

use crate::coordinator::{Display, Status};
use crate::exit::{Failure, OrBadInput};
use crate::slurm;
use crate::story::{InCharge, Outline};

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The exit code of a coordinator whose run is to be continued, and how many looks it has to say by whom.
const CONTINUED: u8 = 75;
const REQUEUE: u32 = 20;
/// How many looks at the files there are for one question to Slurm.
const ASK_SLURM: u32 = 20;

/// Shows how the run goes until it has ended; exits as it did.
pub(super) fn follow(run: &RunDir, job: Job, number: &str, json: bool) -> Result<ExitCode, Failure> {
    let folder = run.job_dir(job);
    let mut display = Display::new(json);
    display.note(&format!("submitted as Slurm job {number}"));
    let mut number = number.to_owned();
    let (mut told, mut state, mut looks_since_end) = (0, String::new(), 0);
    for look in 0_u32.. {
        let entries = journal::read(&folder.journal()).or_bad_input()?;
        for entry in entries.iter().skip(told) {
            if let Event::Launched { host, .. } = &entry.event {
                display.note(&format!("started on {host}"));
            }
        }
        told = entries.len();
        let outline = Outline::of(&entries);
        // Another job may have taken over.
        if let Some(InCharge { job, .. }) = outline.in_charge() {
            number = job;
        }
        match outline.exit_code() {
            // The next line of the journal may say that the job is back in the queue.
            Some(CONTINUED) if looks_since_end < REQUEUE => looks_since_end += 1,
            Some(code) => return Ok(ExitCode::from(code)),
            None => looks_since_end = 0,
        }
        if look.is_multiple_of(ASK_SLURM) {
            let now = slurm::queue_state(&number).or_bad_input()?;
            if let Some(now) = now.as_ref().filter(|now| **now != state) {
                display.note(&format!("Slurm job {number}: {}", now.to_lowercase()));
                state.clone_from(now);
            }
            if now.is_none() && look > 0 {
                let output = folder.path().join(format!("slurm-{number}.out"));
                let text = format!("Slurm job {number} ended without its coordinator having said how; see {}", output.display());
                return Err(anyhow::anyhow!(text).into());
            }
        }
        if let Some(Status { progress: Some(progress), utilisation, .. }) = Status::read(&folder.status()) {
            display.progress(&progress, utilisation);
        }
        sleep(LOOK_AGAIN);
    }
    Ok(ExitCode::FAILURE)
}
