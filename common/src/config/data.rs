//! `[data]` and `[scenes]`: which data sets, and how they are read.

use serde::{Deserialize, Serialize};

/// `[data]`: the data sets and how they are read. Each URL holds one folder per split (`train/`, `validation/`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// URL of the images and masks, the input of the `autoencoder` and `encode` jobs: a local path, `file://`,
    /// `s3://`, `gs://`, `az://`.
    pub images: String,
    /// URL of the encoded data set (posterior moments, images, masks), the input of training and evaluation.
    pub latents: String,
    /// Side of the square images in pixels.
    pub resolution: usize,
    /// Mirror training images left to right, each with probability 1/2 whenever it is drawn. The `encode` job then stores the moments of
    /// both variants of the training split, so the data set has to be encoded with this on; evaluation never mirrors.
    #[serde(default)]
    pub flip: bool,
    /// Samples per shard when a data set is written.
    #[serde(default = "defaults::rows_per_shard")]
    pub rows_per_shard: usize,
    /// Shards that are shuffled together; 0 means all of them.
    #[serde(default)]
    pub shuffle_window: usize,
    /// Batches prepared ahead of the training step.
    #[serde(default = "defaults::prefetch")]
    pub prefetch: usize,
    /// Memory for verified blocks, in MiB per worker.
    #[serde(default = "defaults::cache_mib")]
    pub cache_mib: usize,
    /// What is fetched ahead of the batches being prepared, in MiB per worker: the blocks of the steps to come, in the order of need. They
    /// lie in the memory of `data.cache_mib`, of which they take half at most; 0 fetches nothing ahead.
    #[serde(default = "defaults::prefetch_mib")]
    pub prefetch_mib: usize,
    /// A folder on a local disk in which the workers of a host keep blocks that they have fetched from an object store, so that each is
    /// fetched once. Jobs may share it. Of data sets on a file system it holds nothing but what `data.cache_decoded` puts there.
    #[serde(default)]
    pub cache_folder: Option<String>,
    /// Keep images there as they are once decoded, so that each is decoded once per host and read from the second epoch on: several times
    /// faster than decoding, for height x width x 3 bytes per image. Data sets of raw images need none of it.
    #[serde(default)]
    pub cache_decoded: bool,
    /// How large that folder may become, in GiB: a hard limit, in bytes on the disk.
    #[serde(default = "defaults::cache_gib")]
    pub cache_gib: f64,
    /// How images are stored when a data set is written. Masks are labels: unless this is `raw`, they are PNG.
    #[serde(default)]
    pub image_format: ImageFormat,
    /// Quality of JPEG and WebP images, 1 to 100.
    #[serde(default = "defaults::image_quality")]
    pub image_quality: usize,
}

/// How the images of a data set are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// As they are: the fastest to read, and the largest.
    #[default]
    Raw,
    /// PNG, without loss.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP, with loss.
    Webp,
}

/// A split of the encoded data set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Held-out images.
    #[default]
    Validation,
    /// Images that the model was trained on.
    Train,
}

impl Split {
    /// The name of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Train => "train",
        }
    }
}

/// `[scenes]`: the built-in data set of ray-traced rooms with cubes, spheres and cylinders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScenesConfig {
    /// Number of training scenes.
    pub train: usize,
    /// Number of held-out scenes.
    pub validation: usize,
    /// Fewest objects in a scene.
    pub min_objects: usize,
    /// Most objects in a scene.
    pub max_objects: usize,
    /// Procedural textures on objects and ground, as in CLEVRTex, instead of plain colours.
    pub textured: bool,
    /// Seed of the scenes; scene i of a split is the same whatever the number of scenes or workers.
    pub seed: u64,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self { train: 4000, validation: 200, min_objects: 3, max_objects: 6, textured: false, seed: 0 }
    }
}

mod defaults {
    pub(super) fn rows_per_shard() -> usize {
        1024
    }
    pub(super) fn prefetch() -> usize {
        4
    }
    pub(super) fn cache_mib() -> usize {
        1024
    }
    pub(super) fn prefetch_mib() -> usize {
        256
    }
    pub(super) fn cache_gib() -> f64 {
        50.0
    }
    pub(super) fn image_quality() -> usize {
        90
    }
}
