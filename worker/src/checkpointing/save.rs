//! Saving in the background: the training thread copies the tensors, a thread of its own names, hashes and writes them.

use super::parts::Snapshot;
use super::{CheckpointingError, Identity};
use crate::jobs::Reporter;
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::checkpoint::{CheckpointStore, Manifest};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::runtime::Handle;

/// Saves the checkpoints of a run, one at a time.
pub struct Saver {
    job: WriteJob,
    pending: Option<JoinHandle<Result<(), CheckpointingError>>>,
}

/// What the writing thread needs.
#[derive(Clone)]
struct WriteJob {
    store: CheckpointStore,
    identity: Identity,
    keep_last: usize,
    runtime: Handle,
    reporter: Reporter,
}

impl Saver {
    /// A saver into `store` that keeps the newest `keep_last` checkpoints.
    pub fn new(store: CheckpointStore, identity: Identity, keep_last: usize, runtime: Handle, reporter: Reporter) -> Self {
        Self { job: WriteJob { store, identity, keep_last, runtime, reporter }, pending: None }
    }

    /// Saves the state after `step` steps. Returns when the state may change again, which is when it is copied; before that it waits for
    /// the save before.
    ///
    /// # Errors
    /// The failure of the save before, or no thread.
    pub fn save(&mut self, state: &TrainingState, step: u64, detours: &Detours) -> Result<(), CheckpointingError> {
        let asked = Instant::now();
        self.wait()?;
        let (snapshot, job, manifest) = (Snapshot::take(state), self.job.clone(), self.job.identity.manifest(step, detours));
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let writer = thread.spawn(move || job.write(&snapshot, manifest, asked));
        self.pending = Some(writer.map_err(|error| CheckpointingError::Writer(error.to_string()))?);
        Ok(())
    }

    /// Waits until the last save is committed.
    ///
    /// # Errors
    /// Its failure.
    pub fn wait(&mut self) -> Result<(), CheckpointingError> {
        let Some(writer) = self.pending.take() else { return Ok(()) };
        writer.join().unwrap_or_else(|_| Err(CheckpointingError::Writer("it panicked".into())))
    }
}

impl Drop for Saver {
    /// A run that ends by an error still completes the checkpoint that it had begun before.
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::error!("{error}");
        }
    }
}

impl WriteJob {
    fn write(&self, snapshot: &Snapshot, mut manifest: Manifest, asked: Instant) -> Result<(), CheckpointingError> {
        let step = manifest.step;
        let parts = snapshot.parts()?;
        self.runtime.block_on(async {
            let attempt = self.store.begin(step, manifest.generation)?;
            for (name, bytes) in parts {
                manifest.parts.push(attempt.write_part(&name, bytes).await?);
            }
            attempt.commit(&manifest).await?;
            self.reporter.checkpoint_committed(step, asked.elapsed().as_secs_f64());
            // Old checkpoints cost room, not results: the next save tries again.
            if let Err(error) = self.store.collect(self.keep_last).await {
                tracing::warn!("old checkpoints could not be cleared away: {error}");
            }
            Ok(())
        })
    }
}
