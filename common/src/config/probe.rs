//! `[probe]`: which slots the `probe` job looks at, and how it learns to read labels off them.

use serde::{Deserialize, Serialize};

use super::Split;

/// `[probe]`: small networks that read the labels of objects off their slots. Steps and learning rate are the official ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// The split whose images are looked at.
    pub split: Split,
    /// The first so many images of it; 0 for all.
    pub images: usize,
    /// What the probes are judged on: 17 % of what is there.
    pub hold_out: HoldOut,
    /// Steps of AdamW, each over all objects that are not held out.
    pub steps: u64,
    /// Its learning rate.
    pub learning_rate: f64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { split: Split::Validation, images: 0, hold_out: HoldOut::Images, steps: 4000, learning_rate: 1e-3 }
    }
}

/// What the probes do not see in training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldOut {
    /// The objects of the last 17 % of the images, which are other videos too. No image is on both sides.
    #[default]
    Images,
    /// 17 % of the objects, chosen at random (the reference's). Other objects of the same image, and the same object in other frames of its
    /// video, are trained on.
    Objects,
}
