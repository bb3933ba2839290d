//! Held-out images with everything that is known about them: what training looks at now and then.

use super::loader::check_column;
use super::rows::read_tensor;
use super::{DataError, MOMENTS, open_split};
use common::config::Config;
use common::shards::{DType, Dataset};
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;
use tokio::runtime::Handle;

/// Consecutive images of the validation split.
#[derive(Debug)]
pub struct HeldOutImages {
    /// Images u8 [B, H, W, 3].
    pub images: Tensor,
    /// Posterior moments f16 [B, 2 C, h, w]: mean, then log-variance.
    pub moments: Tensor,
    /// Instance masks, each of H x W labels: 0 background, 1..=n objects. None where the data set has no masks.
    pub masks: Option<Vec<Vec<u8>>>,
}

/// The validation split of the encoded data set.
pub struct HeldOutSplit {
    dataset: Arc<Dataset>,
    has_masks: bool,
    runtime: Handle,
}

impl HeldOutSplit {
    /// Opens it.
    ///
    /// # Errors
    /// A data set that is missing, half-written, damaged, or of another kind.
    pub fn open(runtime: &Handle, config: &Config) -> Result<Self, DataError> {
        let (data, split) = (&config.data, "validation");
        let (url, side) = (format!("{}/{split}", data.latents.trim_end_matches('/')), data.resolution);
        let dataset = open_split(runtime, data, &data.latents, split)?;
        let latent_side = side >> (config.autoencoder.block_channels.len() - 1);
        let channels = 2 * config.autoencoder.latent_channels as usize;
        check_column(&url, &dataset, "image", DType::U8, [side, side, 3])?;
        check_column(&url, &dataset, MOMENTS, DType::F16, [channels, latent_side, latent_side])?;
        let has_masks = dataset.manifest().schema.column("mask").is_some();
        if has_masks {
            check_column(&url, &dataset, "mask", DType::U8, [side, side])?;
        }
        Ok(Self { dataset, has_masks, runtime: runtime.clone() })
    }

    /// Whether it is known which pixels belong to which object.
    pub fn has_masks(&self) -> bool {
        self.has_masks
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        usize::try_from(self.dataset.rows()).unwrap_or(usize::MAX)
    }

    /// The images number `rows`, on the CPU.
    ///
    /// # Errors
    /// Data that cannot be fetched or are damaged.
    pub fn read(&self, rows: &Range<usize>) -> Result<HeldOutImages, DataError> {
        let rows: Vec<u64> = rows.clone().map(|row| row as u64).collect();
        let read = |column| self.runtime.block_on(read_tensor(&self.dataset, column, &rows));
        let masks = self.has_masks.then(|| read("mask")).transpose()?;
        let labels = |masks: Tensor| masks.flatten(1, -1).unbind(0).iter().map(Vec::try_from).collect::<Result<_, _>>();
        Ok(HeldOutImages { images: read("image")?, moments: read(MOMENTS)?, masks: masks.map(labels).transpose()? })
    }
}
