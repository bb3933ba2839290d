//! Shards to batches: opening a split of a data set, and the loader that prepares batches ahead of the training step. Published data sets
//! to shards: [`datasets`].

mod ahead;
mod codec;
pub mod datasets;
mod held_out;
mod images;
mod labelled;
mod loader;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod loader_tests;
mod rows;
mod transfer;

pub use codec::{CodecError, decode, encode_columns, image_column, label_column};
use codec::{encode_row, holds};
pub use held_out::{HeldOutImages, HeldOutSplit};
pub use images::{Images, to_unit_range};
pub use labelled::LabelledImages;
pub use loader::{Batch, Loader, Slice, Supply};
pub use rows::read_tensor;
pub use transfer::Transfer;

use common::config::DataConfig;
use common::sampler::NoRows;
use common::shards::{Dataset, NodeCache, NodeCacheError, NodeGroup, ShardError};
use common::storage::{StorageError, Store};
use std::path::Path;
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
    /// The folder for cached blocks is taken.
    #[error(transparent)]
    NodeCache(#[from] NodeCacheError),
    /// An image is not what its column says.
    #[error("{url}: row {row}: {source}; write the data set again")]
    Image {
        /// The data set.
        url: String,
        /// The row.
        row: u64,
        /// What is wrong.
        source: CodecError,
    },
    /// A decoder panicked.
    #[error("a decoder stopped; the log says why")]
    NotDecoded,
    /// Labels that are no numbers.
    #[error("labels could not be read: {0}")]
    Labels(#[from] tch::TchError),
    /// A batch did not get to the device.
    #[error("a batch could not be prepared: {0}")]
    Device(#[from] torch_shim::ShimError),
    /// The task that prepared a batch ended in a panic.
    #[error("the loader stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl DataError {
    /// Whether the input is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Shard(ShardError::Storage(error)) | Self::Storage(error) => error.is_refusal(),
            Self::Stopped(_) | Self::Device(_) | Self::NotDecoded | Self::Labels(_) => false,
            _ => true,
        }
    }
}

/// Opens the split `split` (`train`, `validation`) of the data set at `url`, read as `data` says.
///
/// # Errors
/// A URL that cannot be used, a data set that is missing, half-written or damaged, or a `data.cache_folder` with files of others.
pub fn open_split(runtime: &Handle, data: &DataConfig, url: &str, split: &str) -> Result<Arc<Dataset>, DataError> {
    let store = Store::open(url)?.child(split);
    let local = store.local_path().is_some();
    let dataset = runtime.block_on(Dataset::open(store, data.cache_mib << 20))?;
    match &data.cache_folder {
        Some(folder) if !local || data.cache_decoded => {
            let limit = (data.cache_gib * f64::from(1 << 30)) as u64;
            let group = NodeCache::open(Path::new(folder), limit).and_then(|cache| dataset.node_group(&cache));
            with_node_cache(dataset, group, !local, data.cache_decoded).map(Arc::new)
        }
        _ => Ok(Arc::new(dataset)),
    }
}

/// With what this host keeps of the data set, blocks or decoded rows or both; without it, and a warning, where the disk fails.
fn with_node_cache(
    dataset: Dataset,
    group: Result<NodeGroup, NodeCacheError>,
    blocks: bool,
    decoded: bool,
) -> Result<Dataset, DataError> {
    match group {
        Ok(group) => {
            // A copy of local files would only take room.
            let dataset = if blocks { dataset.with_node_cache(group.clone()) } else { dataset };
            Ok(if decoded { dataset.with_decoded_rows(group) } else { dataset })
        }
        Err(error @ NodeCacheError::Io { .. }) => {
            tracing::warn!("goes on without a cache on this host: {error}");
            Ok(dataset)
        }
        Err(error) => Err(error.into()),
    }
}
