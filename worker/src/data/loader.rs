//! Batches in the order of the sampler, fetched and verified ahead of the step that needs them, mirrored where chance has it.

use super::ahead::Ahead;
use super::rows::read_tensor;
use super::{DataError, MOMENTS, MOMENTS_FLIPPED};
use crate::training::detours::Detours;
use crate::training::noise::{NoiseRecipe, StepNoise};
use crate::training::random::{Draws, Purpose};
use common::config::Config;
use common::sampler::{SampleOrder, rank_positions};
use common::shards::{DType, Dataset, ReadAhead};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Tensor};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// One worker's part of a global batch.
#[derive(Debug)]
pub struct Batch {
    /// The step it belongs to.
    pub step: u64,
    /// Images u8 [B, H, W, 3].
    pub images: Tensor,
    /// Posterior moments f16 [B, 2 C, h, w]: mean, then log-variance.
    pub moments: Tensor,
    /// What chance has decided for the step.
    pub noise: StepNoise,
}

impl Batch {
    /// Some of its rows, without a copy.
    pub fn part(&self, rows: &Range<usize>) -> Self {
        self.map(|tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64))
    }

    /// The same with every tensor changed by `change`.
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        let (images, moments) = (change(&self.images), change(&self.moments));
        Self { step: self.step, images, moments, noise: self.noise.map(change) }
    }

    /// The same, where a change may fail.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<E>(&self, change: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        let (images, moments) = (change(&self.images)?, change(&self.moments)?);
        Ok(Self { step: self.step, images, moments, noise: self.noise.try_map(change)? })
    }

    /// All of its tensors, always in the same order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.images, &self.moments].into_iter().chain(self.noise.tensors())
    }

    /// On `device`, when it is needed there at once.
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|tensor| tensor.to_device(device))
    }

    /// Number of images B.
    pub fn rows(&self) -> usize {
        self.images.size().first().map_or(0, |rows| rows.unsigned_abs() as usize)
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
        let rows = rank_positions(0, self.global_batch as u64, self.rank as u64, self.world as u64);
        rows.start as usize..rows.end as usize
    }
}

/// Where the batches of a run come from.
pub struct Supply {
    config: Config,
    url: String,
    dataset: Arc<Dataset>,
    slice: Slice,
    runtime: Handle,
}

impl Supply {
    /// The worker's `slice` of every global batch of `dataset`, which lies at `url`.
    pub fn new(config: &Config, url: &str, dataset: Arc<Dataset>, slice: Slice, runtime: &Handle) -> Self {
        Self { config: config.clone(), url: url.into(), dataset, slice, runtime: runtime.clone() }
    }

    /// The batches from step `first` to the last, with the noise of `detours` where there are any.
    ///
    /// # Errors
    /// Those of [`Loader::start`].
    pub fn from(&self, first: u64, detours: &Detours) -> Result<Loader, DataError> {
        let steps = first..self.config.train.steps;
        Loader::start(&self.config, &self.url, self.dataset.clone(), self.slice, steps, detours, &self.runtime)
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
    ahead: Option<Ahead>,
}

pub(super) struct Source {
    dataset: Arc<Dataset>,
    order: SampleOrder,
    slice: Slice,
    /// Present if samples are mirrored at random.
    flips: Option<Draws>,
    noise: NoiseRecipe,
    detours: Detours,
}

impl Loader {
    /// Starts to fetch the batches of the steps `first..end`, with the noise of `detours` where there are any. `url` is for messages.
    ///
    /// # Errors
    /// Fewer samples than one global batch, fewer samples in a batch than workers, or a data set of another kind or without
    /// what `data.flip` needs.
    pub fn start(
        config: &Config,
        url: &str,
        dataset: Arc<Dataset>,
        slice: Slice,
        steps: Range<u64>,
        detours: &Detours,
        runtime: &Handle,
    ) -> Result<Self, DataError> {
        let Slice { global_batch, world, .. } = slice;
        if global_batch < world {
            return Err(DataError::TooManyWorkers { global_batch, world });
        }
        let rows = dataset.rows();
        if rows < global_batch as u64 {
            return Err(DataError::FewerThanOneBatch { url: url.into(), rows, global_batch });
        }
        let side = config.data.resolution;
        let latent_side = side >> (config.autoencoder.block_channels.len() - 1);
        let channels = 2 * config.autoencoder.latent_channels as usize;
        check_column(url, &dataset, "image", DType::U8, [side, side, 3])?;
        let moments = [channels, latent_side, latent_side];
        check_column(url, &dataset, MOMENTS, DType::F16, moments)?;
        if config.data.flip {
            if dataset.manifest().schema.column(MOMENTS_FLIPPED).is_none() {
                return Err(DataError::NotFlipped { url: url.into() });
            }
            check_column(url, &dataset, MOMENTS_FLIPPED, DType::F16, moments)?;
        }
        let order = SampleOrder::new(config.run.seed, &dataset.manifest().shard_rows(), config.data.shuffle_window)
            .map_err(|source| DataError::Empty { url: url.into(), source })?;
        let flips = config.data.flip.then(|| Draws::new(config.run.seed));
        let (noise, detours) = (NoiseRecipe::new(config), detours.clone());
        let blocks = read_ahead(config, &dataset, runtime);
        let source = Arc::new(Source { dataset, order, slice, flips, noise, detours });
        let ahead = blocks.map(|blocks| Ahead::start(source.clone(), blocks, steps.clone(), runtime));
        let mut loader = Self {
            source,
            runtime: runtime.clone(),
            pending: VecDeque::new(),
            next: steps.start,
            end: steps.end,
            prefetch: config.data.prefetch.max(1),
            ahead,
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
        if let Some(ahead) = &self.ahead {
            ahead.done(batch.step);
        }
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

/// Fetches ahead as the configuration allows; in half of the cache at most, so that nothing is given up before it is used.
fn read_ahead(config: &Config, dataset: &Arc<Dataset>, runtime: &Handle) -> Option<ReadAhead> {
    let mib = config.data.prefetch_mib.min(config.data.cache_mib / 2) as u64;
    (mib > 0).then(|| ReadAhead::new(dataset.clone(), mib << 20, runtime))
}

impl Source {
    async fn batch(&self, step: u64) -> Result<Batch, DataError> {
        let (noise, part, detour) = (self.noise.clone(), self.slice.rows(), self.detours.of(step));
        let noise = tokio::task::spawn_blocking(move || noise.draw(step, &part, detour));
        let rows = self.rows(step);
        let (images, moments) = match self.flipped(step) {
            None => tokio::try_join!(read_tensor(&self.dataset, "image", &rows), read_tensor(&self.dataset, MOMENTS, &rows))?,
            Some(flipped) => {
                let images = read_tensor(&self.dataset, "image", &rows);
                let (images, moments) = tokio::try_join!(images, self.read_moments(&rows, &flipped))?;
                (mirror(&images, &flipped), moments)
            }
        };
        Ok(Batch { step, images, moments, noise: noise.await? })
    }

    /// What the batch of `step` reads: rows of columns.
    pub(super) fn needs(&self, step: u64) -> Vec<(&'static str, Vec<u64>)> {
        let rows = self.rows(step);
        let mut needs = match self.flipped(step) {
            None => vec![(MOMENTS, rows.clone())],
            Some(flipped) => vec![(MOMENTS, chosen(&rows, &flipped, false)), (MOMENTS_FLIPPED, chosen(&rows, &flipped, true))],
        };
        needs.push(("image", rows));
        needs
    }

    /// The worker's rows of the data set in `step`.
    fn rows(&self, step: u64) -> Vec<u64> {
        let Slice { global_batch, rank, world } = self.slice;
        self.order.samples(rank_positions(step, global_batch as u64, rank as u64, world as u64))
    }

    /// Which of them are mirrored, if any may be.
    fn flipped(&self, step: u64) -> Option<Vec<bool>> {
        self.flips.map(|draws| draws.chances(step, Purpose::Flip, self.slice.rows(), 0.5))
    }

    /// The moments of `rows`, those of the mirrored image where `flipped`.
    async fn read_moments(&self, rows: &[u64], flipped: &[bool]) -> Result<Tensor, DataError> {
        let (plain, mirrored) = (chosen(rows, flipped, false), chosen(rows, flipped, true));
        let plain = read_tensor(&self.dataset, MOMENTS, &plain);
        let (plain, mirrored) = tokio::try_join!(plain, read_tensor(&self.dataset, MOMENTS_FLIPPED, &mirrored))?;
        // Where each row of the batch lies among all the plain ones and then all the mirrored ones.
        let mut next = [0, plain.size()[0]];
        let places: Vec<i64> = flipped
            .iter()
            .map(|flipped| {
                let place = &mut next[usize::from(*flipped)];
                *place += 1;
                *place - 1
            })
            .collect();
        Ok(Tensor::cat(&[plain, mirrored], 0).index_select(0, &Tensor::from_slice(&places)))
    }
}

/// The rows that are mirrored, or those that are not.
fn chosen(rows: &[u64], flipped: &[bool], mirrored: bool) -> Vec<u64> {
    rows.iter().zip(flipped).filter(|(_, flipped)| **flipped == mirrored).map(|(row, _)| *row).collect()
}

/// Images u8 [B, H, W, 3], mirrored left to right where `flipped`.
fn mirror(images: &Tensor, flipped: &[bool]) -> Tensor {
    images.flip([2]).where_self(&Tensor::from_slice(flipped).view([-1, 1, 1, 1]), images)
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
