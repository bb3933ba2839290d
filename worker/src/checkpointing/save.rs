//! Saving behind the training: between two updates nothing changes the weights, so a thread of its own copies them during the next forward
//! and backward pass, and then digests, writes and commits while training goes on.
//!
//! Every worker saves its share of the parts; rank 0 waits for all shares and commits. One save is under way at a time. One that fails is
//! made up for by the next; the last one has to succeed.

use super::judgement::{Judged, Judgement};
use super::parts::{Part, assign, parts};
use super::progress::{Progress, Stage};
use super::writer::Writer;
use super::{CheckpointingError, Identity};
use crate::collectives::Moment;
use crate::jobs::Reporter;
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::checkpoint::{CheckpointStore, Retention};
use common::config::CheckpointConfig;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;
use tch::{Device, Tensor};
use tokio::runtime::Handle;

/// Where a run saves, and what of it stays.
pub struct SaveTo {
    /// The checkpoints, and where else each is written after that.
    pub stores: Vec<CheckpointStore>,
    /// Whose they are.
    pub identity: Identity,
    /// A number on which all workers of this generation have agreed, and no other.
    pub nonce: u64,
    /// This worker and the number of workers.
    pub place: (usize, usize),
}

/// One worker's part in saving the checkpoints of a run.
pub struct Saver {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    /// How many were begun, the same on all workers.
    begun: u64,
    /// Who waits to be told how good the state after that step was.
    unjudged: Option<(u64, Sender<Option<f64>>)>,
    device: Device,
    /// On rank 0, to complete at the end what one store missed.
    stores: Vec<CheckpointStore>,
    runtime: Handle,
}

/// What shall be saved.
pub(super) struct Order {
    pub(super) flat: Vec<Tensor>,
    /// When the tensors are what they shall be saved as.
    pub(super) ready: Moment,
    pub(super) step: u64,
    pub(super) detours: Detours,
    pub(super) judged: Judged,
    pub(super) number: u64,
    pub(super) asked: Instant,
}

impl Saver {
    /// Starts the thread that saves this worker's share of `state`.
    ///
    /// # Errors
    /// A store that fails or is another run's, or no thread.
    pub fn start(
        to: SaveTo,
        state: &TrainingState,
        config: &CheckpointConfig,
        device: Device,
        runtime: Handle,
        reporter: Reporter,
    ) -> Result<Self, CheckpointingError> {
        let (rank, world) = to.place;
        let all = parts(state);
        let sizes: Vec<usize> = all.iter().map(Part::bytes).collect();
        let owners = assign(&sizes, world);
        let mine = all.into_iter().zip(owners).filter(|(_, owner)| *owner == rank).map(|(part, _)| part).collect();
        // Only rank 0 commits.
        let stores = if rank == 0 { to.stores.clone() } else { Vec::new() };
        let mut fences = Vec::new();
        for store in &stores {
            runtime.block_on(store.claim(to.identity.run()))?;
            fences.push(runtime.block_on(store.fence())?);
        }
        let retention = Retention { last: config.keep_last, every: config.keep_every, best: config.keep_best, by: config.best_by };
        let progress = Arc::<Progress>::default();
        let (orders, inbox) = channel();
        let writer = Writer { to, fences, retention, device, runtime: runtime.clone(), reporter, progress: progress.clone() };
        let body = move || writer.serve(mine, &inbox);
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(body);
        let thread = thread.map_err(|error| CheckpointingError::Writer(error.to_string()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), progress, begun: 0, unjudged: None, device, stores, runtime })
    }

    /// Begins to save the state after `step` steps, of which `judgement` says how good it is. The state may not change before
    /// [`before_update`](Self::before_update) has returned. Waits for the save before if that is still under way.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn save(
        &mut self,
        state: &TrainingState,
        step: u64,
        detours: &Detours,
        judgement: Judgement,
    ) -> Result<(), CheckpointingError> {
        let asked = Instant::now();
        self.wait()?;
        self.begun += 1;
        let (judged, sender) = Judged::new(judgement);
        self.unjudged = sender.map(|sender| (step, sender));
        let order = Order {
            flat: state.flat(),
            ready: Moment::now(self.device)?,
            step,
            detours: detours.clone(),
            judged,
            number: self.begun,
            asked,
        };
        self.progress.set(Stage::Copying);
        if self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok()) {
            return Ok(());
        }
        self.progress.set(Stage::Idle);
        Err(CheckpointingError::Writer("its thread has ended".into()))
    }

    /// Tells how good the state after `step` steps was, to a save that waits for it.
    pub fn judge(&mut self, step: u64, figure: Option<f64>) {
        if let Some((_, sender)) = self.unjudged.take_if(|(of, _)| *of == step) {
            // A save that has failed meanwhile does not listen.
            let _ = sender.send(figure);
        }
    }

    /// Whether a save is under way.
    pub fn is_busy(&self) -> bool {
        self.progress.stage() != Stage::Idle
    }

    /// Returns when the state may change.
    pub fn before_update(&self) {
        self.progress.wait_while(&[Stage::Copying]);
    }

    /// Whether training may go on as far as its checkpoints are concerned. Cheap enough for every step.
    ///
    /// # Errors
    /// Several saves in a row have failed, another run or another coordinator saves here, or the thread is gone.
    pub fn check(&self) -> Result<(), CheckpointingError> {
        self.progress.take_fatal().map_or(Ok(()), Err)
    }

    /// Waits until no save is under way.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn wait(&self) -> Result<(), CheckpointingError> {
        self.progress.wait_while(&[Stage::Copying, Stage::Writing]);
        self.check()
    }

    /// Waits until the last save is done and everywhere where it shall be.
    ///
    /// # Errors
    /// It has failed, or a store has missed it and still cannot take it.
    pub fn finish(&self) -> Result<(), CheckpointingError> {
        self.wait()?;
        self.progress.take_failure().map_or(Ok(()), Err)?;
        // Also after a generation that ended between one store and the next.
        for from in &self.stores {
            for to in self.stores.iter().filter(|to| to.url() != from.url()) {
                if let Some(step) = self.runtime.block_on(from.bring_up_to_date(to))? {
                    tracing::info!(step, "checkpoint copied from {} to {}", from.url(), to.url());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Saver {
    /// A run that ends by an error still completes the checkpoint that it had begun before.
    fn drop(&mut self) {
        self.progress.close();
        (self.orders, self.unjudged) = (None, None);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpoint writer panicked");
        }
        if let Some(error) = self.progress.take_failure() {
            tracing::error!("{error}");
        }
    }
}
