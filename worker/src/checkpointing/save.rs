//! Saving behind the training: between two updates nothing changes the weights, so a thread of its own copies them during the next forward
//! and backward pass, and then digests, writes and commits while training goes on.
//!
//! Every worker saves its share of the parts; rank 0 waits for all shares and commits. One save is under way at a time.

use super::parts::{Part, assign, parts};
use super::snapshot::Snapshot;
use super::{CheckpointingError, Identity};
use crate::collectives::Moment;
use crate::jobs::Reporter;
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::checkpoint::{Attempt, CheckpointStore, Fence, Manifest, Retention};
use common::config::CheckpointConfig;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};
use tokio::runtime::Handle;
use torch_shim::cuda::{Priority, Stream};

/// How long rank 0 waits for the shares of the others once it has written its own.
const SHARES_WITHIN: Duration = Duration::from_secs(1800);

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
    device: Device,
}

/// What shall be saved.
struct Order {
    flat: Vec<Tensor>,
    /// When the tensors are what they shall be saved as.
    ready: Moment,
    step: u64,
    detours: Detours,
    figure: Option<f64>,
    number: u64,
    asked: Instant,
}

/// How far the save is that is under way.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stage: Stage,
    failure: Option<CheckpointingError>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// The tensors are still being read.
    Copying,
    Writing,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        self.lock().stage = stage;
        self.changed.notify_all();
    }

    fn fail(&self, error: CheckpointingError) {
        self.lock().failure = Some(error);
    }

    /// Waits while the save is in one of `stages`.
    fn wait_while(&self, stages: &[Stage]) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.lock(), |state| stages.contains(&state.stage));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saver {
    /// Starts the thread that saves this worker's share of `state`.
    ///
    /// # Errors
    /// A store that fails, or no thread.
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
        let fences = to.stores.iter().map(|store| runtime.block_on(store.fence())).collect::<Result<_, _>>()?;
        let retention = Retention { last: config.keep_last, every: config.keep_every, best: config.keep_best };
        let progress = Arc::<Progress>::default();
        let (orders, inbox) = channel();
        let writer = Writer { to, fences, retention, device, runtime, reporter, progress: progress.clone() };
        let body = move || writer.serve(mine, &inbox);
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(body);
        let thread = thread.map_err(|error| CheckpointingError::Writer(error.to_string()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), progress, begun: 0, device })
    }

    /// Begins to save the state after `step` steps, of which `figure` says how good it is. The state may not change before
    /// [`before_update`](Self::before_update) has returned. Waits for the save before if that is still under way.
    ///
    /// # Errors
    /// The failure of the save before.
    pub fn save(
        &mut self,
        state: &TrainingState,
        step: u64,
        detours: &Detours,
        figure: Option<f64>,
    ) -> Result<(), CheckpointingError> {
        let asked = Instant::now();
        self.wait()?;
        self.begun += 1;
        let order = Order {
            flat: state.flat(),
            ready: Moment::now(self.device)?,
            step,
            detours: detours.clone(),
            figure,
            number: self.begun,
            asked,
        };
        self.progress.set(Stage::Copying);
        match self.orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => Ok(()),
            _ => Err(CheckpointingError::Writer("its thread has ended".into())),
        }
    }

    /// Whether a save is under way.
    pub fn is_busy(&self) -> bool {
        self.progress.lock().stage != Stage::Idle
    }

    /// Returns when the state may change.
    pub fn before_update(&self) {
        drop(self.progress.wait_while(&[Stage::Copying]));
    }

    /// Waits until the last save is done.
    ///
    /// # Errors
    /// Its failure.
    pub fn wait(&mut self) -> Result<(), CheckpointingError> {
        self.progress.wait_while(&[Stage::Copying, Stage::Writing]).failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Saver {
    /// A run that ends by an error still completes the checkpoint that it had begun before.
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the checkpoint writer panicked");
        }
        if let Some(error) = self.progress.lock().failure.take() {
            tracing::error!("{error}");
        }
    }
}

/// The thread's end.
struct Writer {
    to: SaveTo,
    fences: Vec<Fence>,
    retention: Retention,
    device: Device,
    runtime: Handle,
    reporter: Reporter,
    progress: Arc<Progress>,
}

/// Sets the stage back when a save is over, also by a panic: nobody shall wait for ever.
struct Over<'a>(&'a Progress);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(CheckpointingError::Writer("it panicked".into()));
        }
        self.0.set(Stage::Idle);
    }
}

impl Writer {
    fn serve(&self, parts: Vec<Part>, inbox: &Receiver<Order>) {
        if self.device == Device::Cpu {
            // The cores are the training thread's, which computes meanwhile.
            tch::set_num_threads(1);
        }
        let mut snapshot = Snapshot::new(parts, self.device);
        while let Ok(order) = inbox.recv() {
            let _over = Over(&self.progress);
            let saved = match &mut snapshot {
                Ok(snapshot) => self.save(snapshot, order),
                Err(error) => Err(CheckpointingError::Writer(error.to_string())),
            };
            if let Err(error) = saved {
                self.progress.fail(error);
            }
        }
    }

    fn save(&self, snapshot: &mut Snapshot, order: Order) -> Result<(), CheckpointingError> {
        self.copy(snapshot, &order)?;
        let Order { step, detours, figure, number, asked, .. } = order;
        self.progress.set(Stage::Writing);
        let files = snapshot.files();
        let written = self.to.stores.iter().zip(&self.fences).enumerate().try_for_each(|(index, (store, fence))| {
            let mut manifest = self.to.identity.manifest(step, &detours);
            manifest.figure = figure;
            let attempt = store.join(step, manifest.generation, self.folder(number), Some(fence.clone()));
            if self.runtime.block_on(self.write(&attempt, &files, &mut manifest))? {
                self.runtime.block_on(attempt.commit(&manifest))?;
                self.report(index, store, step, asked);
            }
            Ok(())
        });
        snapshot.take_back(files);
        written
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

    /// The number of the attempt, the same on all workers and never used before.
    fn folder(&self, number: u64) -> u64 {
        let digest = blake3::hash(&[self.to.nonce.to_le_bytes(), number.to_le_bytes()].concat());
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap_or_default())
    }

    /// Writes this worker's share. Returns whether it is this worker that commits, when all shares are there.
    async fn write(
        &self,
        attempt: &Attempt,
        files: &[(String, [bytes::Bytes; 2])],
        manifest: &mut Manifest,
    ) -> Result<bool, CheckpointingError> {
        let (rank, world) = self.to.place;
        let mut written = Vec::new();
        for (name, pieces) in files {
            written.push(attempt.write_pieces(name, pieces.to_vec()).await?);
        }
        if world > 1 {
            attempt.write_share(rank, written).await?;
            if rank > 0 {
                return Ok(false);
            }
            written = attempt.gather(world, SHARES_WITHIN).await?;
        }
        manifest.parts = written;
        Ok(true)
    }

    /// After a commit: says so, and clears away what is old.
    fn report(&self, index: usize, store: &CheckpointStore, step: u64, asked: Instant) {
        if index == 0 {
            self.reporter.checkpoint_committed(step, asked.elapsed().as_secs_f64());
        } else {
            tracing::info!(step, "checkpoint committed in {} too", store.url());
        }
        // Old checkpoints cost room, not results: the next save tries again.
        if let Err(error) = self.runtime.block_on(store.collect(self.retention)) {
            tracing::warn!("old checkpoints could not be cleared away: {error}");
        }
    }
}
