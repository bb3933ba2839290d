//! What a data set says about itself beside its columns, where others rely on it.

use super::{Dataset, Manifest};

/// The field that holds the scaling factor of the latents.
pub const SCALING_FACTOR: &str = "scaling_factor";
/// What metadata are called in tar files of samples. Readers of WebDataset pass over names in double underscores.
pub const ORIGIN: &str = "__dataset__";

/// Latents that nobody has said the scaling factor of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url}: the scaling factor of these latents is not known; set autoencoder.scaling_factor to that of the autoencoder that made them \
     (0.18215 for Stable Diffusion's)"
)]
pub struct NoScalingFactor {
    /// The data set.
    pub url: String,
}

/// The factor that brings the latents to unit variance: the `configured` one, else the one that came with the autoencoder, which the
/// `encode` job has stored with the data set.
///
/// # Errors
/// There is neither.
pub fn scaling_factor(configured: Option<f64>, dataset: &Dataset) -> Result<f64, NoScalingFactor> {
    let known = configured.or_else(|| stored(dataset.manifest()));
    known.ok_or_else(|| NoScalingFactor { url: dataset.url().to_owned() })
}

fn stored(manifest: &Manifest) -> Option<f64> {
    manifest.metadata[SCALING_FACTOR].as_f64()
}
