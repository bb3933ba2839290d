//! The jobs of the worker: one file each, which reads as the story of that job; and what every job is given ([`JobContext`]).
//!
//! To add a job: a file with `pub fn run(context: &mut JobContext) -> anyhow::Result<serde_json::Value>` and an arm in [`run`].

mod autoencoder;
mod checkup;
mod compose;
mod concepts;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod crew;
mod cutting;
mod edit;
mod encode;
mod evaluate;
mod failure;
mod fid;
mod figure;
mod import;
#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod import_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod latents_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod pictures_tests;
mod probe;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod probe_tests;
mod reporter;
mod scenes;
mod stop;
mod train;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod webdataset_tests;

pub use failure::{BadInput, failure_kind, is_out_of_memory, libtorch_cause, one_line};
pub use reporter::Reporter;
pub use stop::{SaveFlag, StopFlag};

use crate::collectives::{Collective, Communicator};
use common::config::Config;
use common::job::Job;
use common::place::Place;
use common::run_dir::RunDir;
use common::shards::ShardWriter;

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
    pub collective: Communicator,
    /// Progress to the log and to the coordinator.
    pub reporter: Reporter,
    /// Raised when the job shall save and end early. Agree on it with the other workers before acting on it.
    pub stop: StopFlag,
    /// Raised when the job shall save and go on. As with `stop`, the others may not know yet.
    pub save: SaveFlag,
    /// For everything asynchronous: storage and the control channel.
    pub runtime: tokio::runtime::Handle,
    /// Where the tensors live.
    pub device: tch::Device,
    /// Steps to profile; 0 for none.
    pub profile: u64,
}

impl JobContext {
    /// Rank 0 completes the data set whose shards all workers have written, while the others wait. Returns its fingerprint there.
    fn complete(&mut self, writer: &ShardWriter) -> anyhow::Result<Option<String>> {
        let manifest = if self.place.is_leader() { Some(self.runtime.block_on(writer.commit())?) } else { None };
        self.collective.barrier()?;
        Ok(manifest.map(|manifest| manifest.fingerprint().to_owned()))
    }
}

/// Runs `job` to its end and returns its summary; that of rank 0 counts.
///
/// # Errors
/// Whatever ended the job; [`failure_kind`] tells bad input from faults.
pub fn run(job: Job, context: &mut JobContext) -> anyhow::Result<serde_json::Value> {
    match job {
        Job::Autoencoder => autoencoder::run(context),
        Job::Compose => compose::run(context),
        Job::Concepts => concepts::run(context),
        Job::Edit => edit::run(context),
        Job::Encode => encode::run(context),
        Job::Evaluate => evaluate::run(context),
        Job::Import => import::run(context),
        Job::Probe => probe::run(context),
        Job::Scenes => scenes::run(context),
        Job::Train => train::run(context),
    }
}
