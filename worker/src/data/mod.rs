//! Shards to batches: opening a split of a data set, and the loader that prepares batches ahead of the training step. Published data sets
//! to shards: [`datasets`].

pub mod datasets;
mod images;
mod labelled;
mod loader;
mod transfer;

pub use images::{Images, to_unit_range};
pub use labelled::LabelledImages;
pub use loader::{Batch, Loader, Slice, Supply};
pub use transfer::Transfer;

use common::sampler::NoRows;
use common::shards::{Dataset, ShardError};
use common::storage::{StorageError, Store};
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Handle;

/// The column of posterior moments.
pub const MOMENTS: &str = "moments";
/// The column of the moments of the images mirrored left to right; there with `data.flip`. They are not the mirrored moments: an
/// autoencoder's padding and strides are not symmetrical.
pub const MOMENTS_FLIPPED: &str = "moments_flipped";

/// Why there are no batches.
#[derive(Debug, Error)]
pub enum DataError {
    /// The data set cannot be opened, or a part of it is damaged.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The URL cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No rows at all.
    #[error("{url}: {source}")]
    Empty {
        /// The data set.
        url: String,
        /// What the sampler says.
        source: NoRows,
    },
    /// Less than one step's worth of samples.
    #[error("{url}: {rows} samples are fewer than one global batch of {global_batch}; lower train.global_batch or add data")]
    FewerThanOneBatch {
        /// The data set.
        url: String,
        /// Its samples.
        rows: u64,
        /// Samples per step.
        global_batch: usize,
    },
    /// Workers would get parts of different sizes.
    #[error("train.global_batch = {global_batch} leaves some of {world} workers without a sample; raise it, or use fewer workers")]
    TooManyWorkers {
        /// Samples per step.
        global_batch: usize,
        /// Number of workers.
        world: usize,
    },
    /// The data set holds other things than the configuration says.
    #[error("{url}: column {column} is {found}, the configuration needs {expected}; encode the data set with this configuration")]
    Column {
        /// The data set.
        url: String,
        /// The column.
        column: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// Mirrored images have no moments.
    #[error(
        "{url}: data.flip = true needs the column {MOMENTS_FLIPPED}, which this data set does not have; run the encode job with \
         data.flip = true into another data.latents, or set data.flip = false"
    )]
    NotFlipped {
        /// The data set.
        url: String,
    },
    /// A batch did not get to the device.
    #[error("a batch could not be copied to the device: {0}")]
    Device(#[from] torch_shim::ShimError),
    /// The task that prepared a batch ended in a panic.
    #[error("the loader stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl DataError {
    /// Whether the input is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Shard(error) => !matches!(error, ShardError::Storage(_)),
            Self::Storage(error) => matches!(error, StorageError::Url { .. } | StorageError::Name { .. }),
            Self::Stopped(_) | Self::Device(_) => false,
            _ => true,
        }
    }
}

/// Opens the split `split` (`train`, `validation`) of the data set at `url`, with a cache of `cache_mib` MiB.
///
/// # Errors
/// A URL that cannot be used, or a data set that is missing, half-written or damaged.
pub fn open_split(runtime: &Handle, url: &str, split: &str, cache_mib: usize) -> Result<Arc<Dataset>, DataError> {
    let store = Store::open(url)?.child(split);
    Ok(Arc::new(runtime.block_on(Dataset::open(store, cache_mib << 20))?))
}
