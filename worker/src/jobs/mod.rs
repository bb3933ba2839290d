//! The jobs of the worker: one file each, which reads as the story of that job; and what every job is given ([`JobContext`]).
//!
//! To add a job: a file with `pub fn run(context: &mut JobContext) -> anyhow::Result<serde_json::Value>`, a variant of [`Job`], and an
//! arm in [`Job::run`].

mod failure;
mod reporter;
mod stop;

pub use failure::{BadInput, FailureKind};
pub use reporter::Reporter;
pub use stop::StopFlag;

use crate::collectives::Collective;
use crate::place::Place;
use clap::ValueEnum;
use common::config::Config;
use common::run_dir::RunDir;

/// What every job is given. The job owns it for its whole life and calls it from one thread.
pub struct JobContext {
    /// The resolved configuration, as `run.toml` holds it.
    pub config: Config,
    /// The run's folder, where checkpoints and metrics lie.
    pub run: RunDir,
    /// This job's folder: `<run>/jobs/<job>`, or the run's folder itself for `train`.
    pub job_dir: RunDir,
    /// Rank, world size, local rank and generation.
    pub place: Place,
    /// The other workers.
    pub collective: Box<dyn Collective>,
    /// Progress to the log and to the coordinator.
    pub reporter: Reporter,
    /// Raised when the job shall save and end early. Agree on it with the other workers before acting on it.
    pub stop: StopFlag,
    /// For everything asynchronous: storage and the control channel.
    pub runtime: tokio::runtime::Handle,
    /// Where the tensors live.
    pub device: tch::Device,
}

/// What a worker can be started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// Train the diffusion model and its slot encoder on an encoded data set.
    Train,
}

impl Job {
    /// The job's name on the command line and in folder names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
        }
    }

    /// The folder of this job inside of the run's folder.
    pub fn folder(self, run: &RunDir) -> RunDir {
        match self {
            Self::Train => run.clone(),
        }
    }

    /// Runs the job to its end and returns its summary, the same on every worker or only complete on rank 0.
    ///
    /// # Errors
    /// Whatever ended the job; [`FailureKind::of`] tells bad input from other failures.
    pub fn run(self, _context: &mut JobContext) -> anyhow::Result<serde_json::Value> {
        match self {
            Self::Train => Ok(serde_json::Value::Null),
        }
    }
}
