//! The images of a split, for the jobs that need no latents.

use super::loader::check_column;
use super::rows::read_tensor;
use super::{DataError, open_split};
use common::config::DataConfig;
use common::shards::{DType, Dataset};
use std::sync::Arc;
use tch::{Kind, Tensor};
use tokio::runtime::Handle;

/// The images of one split.
#[derive(Clone)]
pub struct Images {
    dataset: Arc<Dataset>,
}

impl Images {
    /// Opens the split `split` of `data.images`.
    ///
    /// # Errors
    /// A data set that is missing, half-written, damaged, or of images of another size.
    pub fn open(runtime: &Handle, data: &DataConfig, split: &str) -> Result<Self, DataError> {
        let dataset = open_split(runtime, data, &data.images, split)?;
        let url = format!("{}/{split}", data.images.trim_end_matches('/'));
        check_column(&url, &dataset, "image", DType::U8, [data.resolution, data.resolution, 3])?;
        Ok(Self { dataset })
    }

    /// The data set itself.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The images of these rows, u8 [B, H, W, 3] on the CPU.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub async fn read(&self, rows: &[u64]) -> Result<Tensor, DataError> {
        read_tensor(&self.dataset, "image", rows).await
    }
}

/// Images u8 [B, H, W, 3] -> f32 [B, 3, H, W] in [-1, 1].
pub fn to_unit_range(images: &Tensor) -> Tensor {
    images.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 127.5 - 1.0
}
