//! Where things lie in a run's folder, and how a small file there is replaced so that a reader never sees half of it.
//!
//! ```text
//! runs/NAME/
//!   run.toml            resolved configuration
//!   journal.jsonl       the story of the run
//!   status.json         the present, replaced about once a second
//!   coordinator.json    address and key of the coordinator (owner only)
//!   logs/gen-001/       rank-00003.log of each worker, launcher.log of whatever started them
//!   metrics.jsonl  tensorboard/  checkpoints/  pictures/  evaluate.json  probe.json  compose.json  fid.json  edit.json
//!   report.html         the run as one page
//!   concepts/           library.safetensors with the slots and their concepts, library.json about them
//!   fid/                real.safetensors with what is known of the real images, real.json about it
//!   jobs/JOB/           the same files for a job other than training
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::job::Job;

/// A run's folder, or the folder of one of its jobs: names only, nothing is created or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The run folder at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    #[must_use]
    pub fn run_toml(&self) -> PathBuf {
        self.path.join("run.toml")
    }

    /// The append-only story of the run ([`crate::journal`]).
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// The present state, replaced as a whole.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.path.join("status.json")
    }

    /// Address and key of the coordinator ([`crate::control::Address`]).
    #[must_use]
    pub fn coordinator(&self) -> PathBuf {
        self.path.join("coordinator.json")
    }

    /// Made by `orchestrator stop`: the coordinator takes it away and stops.
    #[must_use]
    pub fn stop_request(&self) -> PathBuf {
        self.path.join("stop-request")
    }

    /// Made by `orchestrator checkpoint`: the coordinator takes it away and has the workers save.
    #[must_use]
    pub fn save_request(&self) -> PathBuf {
        self.path.join("save-request")
    }

    /// Written by a worker the moment before a rehearsed misfortune ([`crate::rehearsal`]).
    #[must_use]
    pub fn rehearsal(&self) -> PathBuf {
        self.path.join("rehearsal.json")
    }

    /// There while sums over the workers are tried out as parts of CUDA graphs, and after a generation that has not survived it.
    #[must_use]
    pub fn sums_trial(&self) -> PathBuf {
        self.path.join("cuda-graph-sums.trial")
    }

    /// The logs of one generation.
    #[must_use]
    pub fn log_dir(&self, generation: u64) -> PathBuf {
        self.path.join("logs").join(format!("gen-{generation:03}"))
    }

    /// The log of one worker.
    #[must_use]
    pub fn log_file(&self, generation: u64, rank: usize) -> PathBuf {
        self.log_dir(generation).join(format!("rank-{rank:05}.log"))
    }

    /// What the launcher and the workers wrote to their standard streams: loader errors, panics, mpirun's own words.
    #[must_use]
    pub fn launcher_log(&self, generation: u64) -> PathBuf {
        self.log_dir(generation).join("launcher.log")
    }

    /// One JSON object per metric record.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Event files for TensorBoard.
    #[must_use]
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// Checkpoints, unless the configuration names another place.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Picture grids.
    #[must_use]
    pub fn pictures(&self) -> PathBuf {
        self.path.join("pictures")
    }

    /// What held-out images looked like after `step` steps of training.
    #[must_use]
    pub fn training_picture(&self, step: u64) -> PathBuf {
        self.training_pictures().join(format!("step-{step:08}.png"))
    }

    /// The folder of these pictures.
    #[must_use]
    pub fn training_pictures(&self) -> PathBuf {
        self.pictures().join("training")
    }

    /// The figures of the evaluation.
    #[must_use]
    pub fn evaluation(&self) -> PathBuf {
        self.path.join("evaluate.json")
    }

    /// The figures of the probes.
    #[must_use]
    pub fn probes(&self) -> PathBuf {
        self.path.join("probe.json")
    }

    /// The library of slots: `library.safetensors`, `library.json`, and parts while it is being made.
    #[must_use]
    pub fn concepts(&self) -> PathBuf {
        self.path.join("concepts")
    }

    /// What each composed scene is made of.
    #[must_use]
    pub fn compositions(&self) -> PathBuf {
        self.path.join("compose.json")
    }

    /// The distances of composed scenes from real images.
    #[must_use]
    pub fn distances(&self) -> PathBuf {
        self.path.join("fid.json")
    }

    /// What is known of the real images that composed scenes are compared with, so that they need not be looked at again.
    #[must_use]
    pub fn real_features(&self) -> PathBuf {
        self.path.join("fid")
    }

    /// What the `edit` job did, and its figures.
    #[must_use]
    pub fn edits(&self) -> PathBuf {
        self.path.join("edit.json")
    }

    /// The page that `orchestrator report` writes.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// The folder of one job of this run; training is the run folder itself.
    #[must_use]
    pub fn job_dir(&self, job: Job) -> Self {
        match job {
            Job::Train => self.clone(),
            other => Self::new(self.path.join("jobs").join(other.name())),
        }
    }
}

/// Replaces the file at `path` as a whole: a reader sees the old content or the new, also after a crash.
///
/// `mode` are the permission bits of the new file (`0o600` for a secret).
///
/// # Errors
/// Any failure of the file system; the old content is then still there.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // A left-over of an earlier process with our id may have other permissions: never write a secret into it.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaced_files_keep_their_secret_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.json");
        fs::write(&path, "old").unwrap();
        fs::write(folder.path().join(format!("coordinator.json.{}.tmp", std::process::id())), "left over").unwrap();
        replace_file(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace_file(&folder.path().join("absent/status.json"), b"", 0o644).is_err());
    }

    #[test]
    fn every_job_but_training_has_its_own_folder() {
        let run = RunDir::new("runs/a");
        assert_eq!(run.job_dir(Job::Train), run);
        assert_eq!(run.job_dir(Job::Encode).run_toml(), Path::new("runs/a/jobs/encode/run.toml"));
        assert_eq!(run.log_file(2, 13), Path::new("runs/a/logs/gen-002/rank-00013.log"));
        for job in Job::ALL {
            assert_eq!(job.name().parse(), Ok(job));
        }
        assert!("trane".parse::<Job>().is_err());
    }
}
