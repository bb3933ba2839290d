//! Batches in the order of the sampler, fetched and verified ahead of the step that needs them.

use super::DataError;
use common::config::Config;
use common::sampler::{SampleOrder, rank_positions};
use common::shards::{DType, Dataset};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tch::{Kind, Tensor};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// One worker's part of a global batch, on the CPU.
#[derive(Debug)]
pub struct Batch {
    /// The step it belongs to.
    pub step: u64,
    /// Images u8 [B, H, W, 3].
    pub images: Tensor,
    /// Posterior moments f16 [B, 2 C, h, w]: mean, then log-variance.
    pub moments: Tensor,
}

impl Batch {
    /// Some of its rows, without a copy.
    pub fn part(&self, rows: &Range<usize>) -> Self {
        let part = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
        Self { step: self.step, images: part(&self.images), moments: part(&self.moments) }
    }
}

/// Which part of every global batch a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Samples per step over all workers.
    pub global_batch: usize,
    /// This worker.
    pub rank: usize,
    /// Number of workers.
    pub world: usize,
}

impl Slice {
    /// The rows of the global batch that are this worker's.
    pub fn rows(&self) -> Range<usize> {
        let share = self.global_batch / self.world;
        self.rank * share..(self.rank + 1) * share
    }
}

/// Prepares the batches of consecutive steps. A task of the runtime fetches each; a few are under way at any time.
pub struct Loader {
    source: Arc<Source>,
    runtime: Handle,
    pending: VecDeque<JoinHandle<Result<Batch, DataError>>>,
    /// The next step to start fetching.
    next: u64,
    /// The step after the last one.
    end: u64,
    prefetch: usize,
}

struct Source {
    dataset: Arc<Dataset>,
    order: SampleOrder,
    slice: Slice,
    image_shape: [i64; 3],
    moments_shape: [i64; 3],
}

impl Loader {
    /// Starts to fetch the batches of the steps `first..end`. `url` is for messages.
    ///
    /// # Errors
    /// Fewer samples than one global batch, a batch that does not divide among the workers, or a data set of another kind.
    pub fn start(
        config: &Config,
        url: &str,
        dataset: Arc<Dataset>,
        slice: Slice,
        steps: Range<u64>,
        runtime: &Handle,
    ) -> Result<Self, DataError> {
        let Slice { global_batch, world, .. } = slice;
        if !global_batch.is_multiple_of(world) {
            return Err(DataError::Indivisible { global_batch, world });
        }
        let rows = dataset.rows();
        if rows < global_batch as u64 {
            return Err(DataError::FewerThanOneBatch { url: url.into(), rows, global_batch });
        }
        let side = config.data.resolution;
        let latent_side = side >> (config.autoencoder.block_channels.len() - 1);
        let channels = 2 * config.autoencoder.latent_channels as usize;
        let image_shape = check_column(url, &dataset, "image", DType::U8, [side, side, 3])?;
        let moments_shape = check_column(url, &dataset, "moments", DType::F16, [channels, latent_side, latent_side])?;
        let order = SampleOrder::new(config.run.seed, &dataset.manifest().shard_rows(), config.data.shuffle_window)
            .map_err(|source| DataError::Empty { url: url.into(), source })?;
        let source = Arc::new(Source { dataset, order, slice, image_shape, moments_shape });
        let mut loader = Self {
            source,
            runtime: runtime.clone(),
            pending: VecDeque::new(),
            next: steps.start,
            end: steps.end,
            prefetch: config.data.prefetch.max(1),
        };
        loader.fill();
        Ok(loader)
    }

    /// The batch of the next step, waiting for it if need be; none after the last step.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let Some(task) = self.pending.pop_front() else { return Ok(None) };
        let batch = self.runtime.block_on(task)??;
        self.fill();
        Ok(Some(batch))
    }

    fn fill(&mut self) {
        while self.pending.len() < self.prefetch && self.next < self.end {
            let (source, step) = (self.source.clone(), self.next);
            self.pending.push_back(self.runtime.spawn(async move { source.batch(step).await }));
            self.next += 1;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.pending.iter().for_each(JoinHandle::abort);
    }
}

impl Source {
    async fn batch(&self, step: u64) -> Result<Batch, DataError> {
        let Slice { global_batch, rank, world } = self.slice;
        let rows = self.order.samples(rank_positions(step, global_batch as u64, rank as u64, world as u64));
        let images = self.dataset.read_rows("image", &rows).await?;
        let moments = self.dataset.read_rows("moments", &rows).await?;
        let tensor = |bytes: &[u8], [a, b, c]: [i64; 3], kind| Tensor::from_data_size(bytes, &[rows.len() as i64, a, b, c], kind);
        Ok(Batch {
            step,
            images: tensor(&images, self.image_shape, Kind::Uint8),
            moments: tensor(&moments, self.moments_shape, Kind::Half),
        })
    }
}

/// That a column is what the configuration says; its shape as tensors count.
pub(super) fn check_column<const N: usize>(
    url: &str,
    dataset: &Dataset,
    column: &'static str,
    dtype: DType,
    shape: [usize; N],
) -> Result<[i64; N], DataError> {
    let found = dataset.manifest().schema.column(column);
    if found.is_some_and(|found| found.dtype == dtype && found.shape == shape) {
        return Ok(shape.map(|side| side as i64));
    }
    let found = found.map_or_else(|| "missing".to_owned(), |found| format!("{:?} {:?}", found.dtype, found.shape));
    Err(DataError::Column { url: url.into(), column, found, expected: format!("{dtype:?} {shape:?}") })
}
