//! Which jobs a run has, and which of them a command is about when none is named.

use std::path::Path;
use std::time::SystemTime;

use common::job::Job;
use common::run_dir::RunDir;

use crate::exit::{Failure, OrBadInput};
use crate::run_folder::FolderError;

/// The jobs of a run that were ever launched or submitted, the one that was active last in front.
pub(crate) fn jobs(run: &RunDir) -> Vec<Job> {
    let mut jobs: Vec<(SystemTime, Job)> = Job::ALL.into_iter().filter_map(|job| Some((active(&run.job_dir(job))?, job))).collect();
    jobs.sort_by_key(|(active, job)| (std::cmp::Reverse(*active), *job != Job::Train));
    jobs.into_iter().map(|(_, job)| job).collect()
}

/// The job that a command is about: the one that was named, or the one that was active last.
///
/// # Errors
/// Bad input: there is no run in that folder, or it has no such job.
pub(crate) fn chosen_job(run: &RunDir, named: Option<Job>) -> Result<Job, Failure> {
    let jobs = jobs(run);
    let Some(newest) = jobs.first() else {
        return Err(FolderError::NoRun { folder: run.path().into() }).or_bad_input();
    };
    match named {
        None => Ok(*newest),
        Some(job) if jobs.contains(&job) => Ok(job),
        Some(job) => {
            let there: Vec<&str> = jobs.iter().map(|job| job.name()).collect();
            Err(Failure::bad_input(format!("{}: job {job} was not launched; there is {}", run.path().display(), there.join(", "))))
        }
    }
}

fn active(folder: &RunDir) -> Option<SystemTime> {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    changed(&folder.journal()).max(changed(&folder.status()))
}
