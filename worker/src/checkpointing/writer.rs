//! The thread that saves: copies this worker's share, writes it, and on rank 0 commits when all shares are there.
//!
//! Each store is a case of its own: what one refuses another may take, and a checkpoint that is committed somewhere is saved. A writer
//! that cannot write its share says so in place of it, so that nobody waits for it; one that cannot even do that ends its worker.

use super::parts::Part;
use super::progress::{Over, Progress, Stage};
use super::save::{Order, SaveTo};
use super::snapshot::Snapshot;
use super::{CheckpointingError, Files};
use crate::jobs::Reporter;
use common::checkpoint::{Attempt, CheckpointError, CheckpointStore, Fence, Part as Written, Retention};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tch::Device;
use tokio::runtime::Handle;
use torch_shim::cuda::{Priority, Stream};

/// How long rank 0 waits for the shares of the others once it has written its own, where there is no other store.
const SHARES_WITHIN: Duration = Duration::from_secs(1800);
/// The same with several stores: a worker that one of them is out of reach of may not be able to say so.
const SHARES_WITHIN_OF_MANY: Duration = Duration::from_secs(300);

/// How often a worker tries to say that it has failed, and how soon again.
const NOTE_ATTEMPTS: usize = 10;
const NOTE_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Parts that are written at the same time: while one waits for the disk, the next ones are digested and copied.
const PARTS_AT_ONCE: usize = 3;

/// The thread's end of a [`Saver`](super::Saver).
pub(super) struct Writer {
    pub(super) to: SaveTo,
    /// Of each store; on rank 0, which commits.
    pub(super) fences: Vec<Fence>,
    pub(super) retention: Retention,
    pub(super) device: Device,
    pub(super) runtime: Handle,
    pub(super) reporter: Reporter,
    pub(super) progress: Arc<Progress>,
}

/// Why a save failed, and whether training must not go on.
struct Failure {
    error: CheckpointingError,
    fatal: bool,
}

impl<E: Into<CheckpointingError>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let fatal = error.is_foreign();
        Self { error, fatal }
    }
}

impl Writer {
    pub(super) fn serve(&self, parts: Vec<Part>, inbox: &Receiver<Order>) {
        if self.device == Device::Cpu {
            // The cores are the training thread's, which computes meanwhile.
            tch::set_num_threads(1);
        }
        let mut snapshot = Snapshot::new(parts, self.device);
        while let Ok(order) = inbox.recv() {
            let _over = Over(&self.progress, order.step);
            let saved = match &mut snapshot {
                Ok(snapshot) => self.save(snapshot, &order),
                Err(error) => Err(Failure { error: CheckpointingError::Writer(error.to_string()), fatal: true }),
            };
            match saved {
                Ok(()) => self.progress.succeeded(),
                Err(Failure { error, fatal }) => {
                    if let Some(cause) = self.progress.failed(order.step, error, fatal) {
                        self.reporter.checkpoint_failed(order.step, cause);
                    }
                }
            }
        }
    }

    /// Saves this worker's share in every store that takes it; a failure if none does.
    fn save(&self, snapshot: &mut Snapshot, order: &Order) -> Result<(), Failure> {
        let copied = self.copy(snapshot, order);
        copied.map_err(|error| Failure { error, fatal: true })?;
        self.progress.set(Stage::Writing);
        let files = snapshot.files();
        let saved = self.save_in_all(&files, order);
        snapshot.take_back(files);
        saved
    }

    fn save_in_all(&self, files: &Files, order: &Order) -> Result<(), Failure> {
        let (mut saved, mut failed) = (false, None);
        for index in 0..self.to.stores.len() {
            match self.runtime.block_on(self.save_in(index, files, order)) {
                Ok(committed) => {
                    if committed {
                        self.report(index, !saved, order);
                    }
                    saved = true;
                }
                Err(failure) if failure.error.is_foreign() => return Err(failure),
                Err(failure) => {
                    if self.to.stores.len() > 1 {
                        let (step, url) = (order.step, self.to.stores[index].url());
                        tracing::error!("the checkpoint of step {step} was not saved in {url}: {}", failure.error);
                    }
                    failed = failed.or(Some(failure));
                }
            }
        }
        failed.filter(|_| !saved).map_or(Ok(()), Err)
    }

    /// Copies this worker's share, on a stream of its own where there are streams.
    fn copy(&self, snapshot: &mut Snapshot, order: &Order) -> Result<(), CheckpointingError> {
        let failed = |error: torch_shim::ShimError| CheckpointingError::Writer(error.to_string());
        let stream = match self.device {
            Device::Cuda(index) => Some(Stream::from_pool(index, Priority::Normal).and_then(Stream::make_current).map_err(failed)?),
            _ => None,
        };
        order.ready.before_the_rest(self.device)?;
        snapshot.take(&order.flat)?;
        drop(stream);
        Ok(())
    }

    /// Writes this worker's share into a store. Returns whether it has committed the checkpoint there.
    async fn save_in(&self, index: usize, files: &Files, order: &Order) -> Result<bool, Failure> {
        let mut manifest = self.to.identity.manifest(order.step, &order.detours);
        let fence = self.fences.get(index).cloned();
        let attempt =
            self.to.stores[index].join(order.step, manifest.generation, attempt_number(self.to.nonce, order.number), fence);
        match self.write(&attempt, files).await {
            Ok(Some(parts)) => manifest.parts = parts,
            Ok(None) => return Ok(false),
            Err(error) => return Err(self.withdraw(&attempt, files, error).await),
        }
        (manifest.figure, manifest.figure_of) = (order.judged.figure(), self.retention.by);
        attempt.commit(&manifest).await?;
        Ok(true)
    }

    /// Writes this worker's share. Returns all parts if it is this worker that commits, when all shares are there.
    async fn write(&self, attempt: &Attempt, files: &Files) -> Result<Option<Vec<Written>>, CheckpointError> {
        let (rank, world) = self.to.place;
        let parts = files.iter().map(|(name, pieces)| attempt.write_pieces(name, pieces.to_vec()));
        // All of them end, also when one fails: what is still being written could not be cleared away.
        let written: Vec<_> = futures::stream::iter(parts).buffered(PARTS_AT_ONCE).collect().await;
        let written = written.into_iter().collect::<Result<Vec<Written>, _>>()?;
        if world == 1 {
            return Ok(Some(written));
        }
        attempt.write_share(rank, written).await?;
        if rank > 0 {
            return Ok(None);
        }
        let limit = if self.to.stores.len() > 1 { SHARES_WITHIN_OF_MANY } else { SHARES_WITHIN };
        Ok(Some(attempt.gather(world, |waited| self.progress.is_too_long(waited, limit)).await?))
    }

    /// After a share could not be written or completed: makes room again, and tells rank 0.
    async fn withdraw(&self, attempt: &Attempt, files: &Files, error: CheckpointError) -> Failure {
        let (rank, reason) = (self.to.place.0, error.to_string());
        let removed = match rank {
            0 => attempt.abandon(self.to.place.1).await,
            _ => attempt.withdraw(files.iter().map(|(name, _)| name.as_str())).await,
        };
        if let Err(error) = removed {
            tracing::warn!("an incomplete checkpoint could not be removed: {error}");
        }
        let mut failure = Failure::from(error);
        if rank > 0
            && let Err(error) = tell_rank_0(attempt, rank, &reason).await
        {
            tracing::warn!("rank 0 could not be told: {error}");
            failure.fatal |= self.to.stores.len() == 1;
        }
        failure
    }

    /// After a commit: says so, and clears away what is old.
    fn report(&self, index: usize, first: bool, order: &Order) {
        let (store, step): (&CheckpointStore, u64) = (&self.to.stores[index], order.step);
        if first {
            self.reporter.checkpoint_committed(step, order.asked.elapsed().as_secs_f64());
        } else {
            tracing::info!(step, "checkpoint committed in {} too", store.url());
        }
        // Old checkpoints cost room, not results: the next save tries again.
        if let Err(error) = self.runtime.block_on(store.collect(self.retention)) {
            tracing::warn!("old checkpoints could not be cleared away: {error}");
        }
    }
}

/// Leaves rank 0 a note that this worker's share will not come. A disk that is full has room again as soon as rank 0 clears away its own.
async fn tell_rank_0(attempt: &Attempt, rank: usize, reason: &str) -> Result<(), CheckpointError> {
    for _ in 1..NOTE_ATTEMPTS {
        if attempt.write_failure(rank, reason.to_owned()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(NOTE_AGAIN_AFTER).await;
    }
    attempt.write_failure(rank, reason.to_owned()).await
}

/// The random number of an attempt to save, the same on all workers and never used before.
pub(super) fn attempt_number(nonce: u64, number: u64) -> u64 {
    let digest = blake3::hash(&[nonce.to_le_bytes(), number.to_le_bytes()].concat());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap_or_default())
}
