//! `[import]`: which published data set becomes `data.images`, and which part of it.

use serde::{Deserialize, Serialize};

/// `[import]`: what the `import` job reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// How the data set is laid out.
    pub layout: ImportLayout,
    /// Where it lies: a folder, an archive (`.zip`, `.tar`, `.tar.gz`), a folder of archives, or a TFRecord file; a local path, `file://`,
    /// `s3://`, `gs://` or `az://`. Its last part may name several files: `train-{0000..0147}.tar`, `*.tar`.
    pub source: String,
    /// Side of the centred square that is kept, as a share of the shorter side of the image. It is scaled to `data.resolution`.
    #[serde(default = "defaults::crop")]
    pub crop: f64,
    /// Rows of the tables of visibility and attributes, and so the most objects that an image may have. Absent: 23 for MOVi, 10 for the
    /// others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_objects: Option<usize>,
    /// Of a video, every so many frames are taken; 1 for all.
    #[serde(default = "defaults::frame_stride")]
    pub frame_stride: usize,
    /// Hold out this share of the published training images, whole videos at a time, chosen by a digest of their names, instead of the
    /// published validation split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_share: Option<f64>,
    /// Take only so many images (layout `movi`: videos) to train on, the first ones. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<usize>,
    /// The same for the validation split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<usize>,
}

/// How a data set is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportLayout {
    /// CLEVR v1.0: images and one JSON file of scenes per split, no masks.
    Clevr,
    /// CLEVR of the multi-object data sets: one gzipped TFRecord file, with masks.
    ClevrMasks,
    /// CLEVRTex: numbered folders of images, `_flat.png` masks and JSON files.
    Clevrtex,
    /// MOVi-C, -D, -E as TensorFlow Datasets stores them: TFRecord files.
    Movi,
    /// The same as the script of the official implementation unpacks them: one image, mask and JSON file per frame.
    MoviDump,
    /// FFHQ: numbered images, no masks.
    Ffhq,
    /// A folder of images, no masks.
    Images,
    /// Tar files of samples, as `orchestrator shards export` and others write them.
    Webdataset,
}

impl ImportLayout {
    /// Most objects in an image, as published.
    #[must_use]
    pub fn max_objects(self) -> usize {
        match self {
            Self::Movi | Self::MoviDump => 23,
            Self::Clevr | Self::ClevrMasks | Self::Clevrtex | Self::Ffhq | Self::Images | Self::Webdataset => 10,
        }
    }
}

impl ImportConfig {
    /// Rows of the tables of visibility and attributes.
    #[must_use]
    pub fn max_objects(&self) -> usize {
        self.max_objects.unwrap_or_else(|| self.layout.max_objects())
    }
}

mod defaults {
    pub(super) fn crop() -> f64 {
        1.0
    }
    pub(super) fn frame_stride() -> usize {
        1
    }
}
