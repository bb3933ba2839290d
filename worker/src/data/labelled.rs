//! Images with the truth about them, for evaluation and pictures.

use super::loader::check_column;
use super::rows::read_tensor;
use super::{DataError, open_split};
use common::config::DataConfig;
use common::shards::{DType, Dataset, NoLabels, ObjectLabel, object_labels};
use std::ops::Range;
use std::sync::Arc;
use tch::{Kind, Tensor};
use tokio::runtime::Handle;

/// The images of one split of the encoded data set, and what is known about them.
pub struct LabelledImages {
    dataset: Arc<Dataset>,
    side: usize,
    runtime: Handle,
}

impl LabelledImages {
    /// Opens the split `split` of `data.latents`.
    ///
    /// # Errors
    /// A data set that is missing, half-written, damaged, or of images of another size.
    pub fn open(runtime: &Handle, data: &DataConfig, split: &str) -> Result<Self, DataError> {
        let (url, side) = (format!("{}/{split}", data.latents.trim_end_matches('/')), data.resolution);
        let dataset = open_split(runtime, data, &data.latents, split)?;
        check_column(&url, &dataset, "image", DType::U8, [side, side, 3])?;
        Ok(Self { dataset, side, runtime: runtime.clone() })
    }

    /// The same for whoever asks for [`Self::masks`].
    ///
    /// # Errors
    /// As above, and a data set without masks.
    pub fn open_with_masks(runtime: &Handle, data: &DataConfig, split: &str) -> Result<Self, DataError> {
        let images = Self::open(runtime, data, split)?;
        let url = format!("{}/{split}", data.latents.trim_end_matches('/'));
        check_column(&url, &images.dataset, "mask", DType::U8, [images.side; 2])?;
        Ok(images)
    }

    /// Number of images.
    pub fn count(&self) -> u64 {
        self.dataset.rows()
    }

    /// Fingerprint of the data set.
    pub fn fingerprint(&self) -> &str {
        self.dataset.manifest().fingerprint()
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
        self.runtime.block_on(read_tensor(&self.dataset, "image", rows))
    }

    /// The instance masks of consecutive rows, each of H x W labels: 0 background, 1..=n objects.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn masks(&self, rows: Range<u64>) -> Result<Vec<Vec<u8>>, DataError> {
        let rows: Vec<u64> = rows.collect();
        let masks = self.runtime.block_on(read_tensor(&self.dataset, "mask", &rows))?;
        masks.flatten(1, -1).unbind(0).iter().map(|mask| Vec::try_from(mask).map_err(DataError::from)).collect()
    }

    /// What is said about the objects.
    ///
    /// # Errors
    /// Nothing.
    pub fn object_labels(&self) -> Result<Vec<ObjectLabel>, NoLabels> {
        object_labels(&self.dataset)
    }

    /// One of the [`Self::object_labels`] of consecutive rows, f32 [B, objects, figures] on the CPU: row k of an image is its object k + 1.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn label(&self, label: &ObjectLabel, rows: Range<u64>) -> Result<Tensor, DataError> {
        let rows: Vec<u64> = rows.collect();
        let table = self.runtime.block_on(read_tensor(&self.dataset, &label.column, &rows))?.to_kind(Kind::Float);
        let (first, width) = (label.figures.start as i64, label.figures.len() as i64);
        Ok(table.view([table.size()[0], table.size()[1], -1]).narrow(2, first, width))
    }
}
