//! Images with the truth about them, for evaluation and pictures.

use super::loader::check_column;
use super::{DataError, open_split};
use common::config::DataConfig;
use common::shards::{DType, Dataset};
use std::ops::Range;
use std::sync::Arc;
use tch::{Kind, Tensor};
use tokio::runtime::Handle;

/// The images and instance masks of one split of the encoded data set.
pub struct LabelledImages {
    dataset: Arc<Dataset>,
    side: usize,
    runtime: Handle,
}

impl LabelledImages {
    /// Opens the split `split` of `data.latents`.
    ///
    /// # Errors
    /// A data set that is missing, half-written, damaged, without masks, or of images of another size.
    pub fn open(runtime: &Handle, data: &DataConfig, split: &str) -> Result<Self, DataError> {
        let (url, side) = (format!("{}/{split}", data.latents.trim_end_matches('/')), data.resolution);
        let dataset = open_split(runtime, &data.latents, split, data.cache_mib)?;
        check_column(&url, &dataset, "image", DType::U8, [side, side, 3])?;
        check_column(&url, &dataset, "mask", DType::U8, [side, side])?;
        Ok(Self { dataset, side, runtime: runtime.clone() })
    }

    /// Number of images.
    pub fn count(&self) -> u64 {
        self.dataset.rows()
    }

    /// Side of the square images.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Images u8 [B, H, W, 3] on the CPU, in the order asked.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn images(&self, rows: &[u64]) -> Result<Tensor, DataError> {
        let (bytes, side) = (self.runtime.block_on(self.dataset.read_rows("image", rows))?, self.side as i64);
        Ok(Tensor::from_data_size(&bytes, &[rows.len() as i64, side, side, 3], Kind::Uint8))
    }

    /// The instance masks of consecutive rows, each of H x W labels: 0 background, 1..=n objects.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn masks(&self, rows: Range<u64>) -> Result<Vec<Vec<u8>>, DataError> {
        let rows: Vec<u64> = rows.collect();
        let bytes = self.runtime.block_on(self.dataset.read_rows("mask", &rows))?;
        Ok(bytes.chunks_exact(self.side * self.side).map(<[u8]>::to_vec).collect())
    }
}
