//! `[autoencoder]`: the KL autoencoder whose latents the diffusion model learns, and the recipe to train a small one.

use serde::{Deserialize, Serialize};

/// `[autoencoder]`: architecture (the family of diffusers' `AutoencoderKL`) and where its weights lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// URL of a folder with `config.json` and `diffusion_pytorch_model.safetensors` (diffusers layout, as the `autoencoder` job writes
    /// it); or of one `.safetensors` file, which needs `scaling_factor`: the autoencoder alone, in diffusers' names or in the original
    /// ones of latent diffusion, or a whole release of Stable Diffusion 1 or 2.
    pub weights: String,
    /// SHA-256 of the weights file in hexadecimal, as model hubs publish it; absent: any file will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Channels of each level; the latent is smaller than the image by a factor 2^(levels-1).
    pub block_channels: Vec<i64>,
    /// Residual blocks per level of the encoder (the decoder has one more).
    #[serde(default = "defaults::layers_per_block")]
    pub layers_per_block: usize,
    /// Channels of the latent.
    #[serde(default = "defaults::latent_channels")]
    pub latent_channels: i64,
    /// Groups of every GroupNorm.
    #[serde(default = "defaults::norm_groups")]
    pub norm_groups: i64,
    /// Self-attention in the middle block.
    #[serde(default = "defaults::mid_attention")]
    pub mid_attention: bool,
    /// Latents are multiplied by this before diffusion. Absent: measured by the `autoencoder` job (1 / standard deviation) and
    /// stored with the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_factor: Option<f64>,
    /// `[autoencoder.train]`: the recipe of the `autoencoder` job.
    #[serde(default)]
    pub train: AutoencoderTraining,
}

/// `[autoencoder.train]`: the recipe of the `autoencoder` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderTraining {
    /// Optimizer steps.
    pub steps: u64,
    /// Images per step over all workers.
    pub global_batch: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Weight of the KL divergence to the unit Gaussian, per latent element.
    pub kl_weight: f64,
}

impl Default for AutoencoderTraining {
    fn default() -> Self {
        Self { steps: 500, global_batch: 32, learning_rate: 1e-3, warmup_steps: 50, kl_weight: 1e-6 }
    }
}

mod defaults {
    pub(super) fn layers_per_block() -> usize {
        2
    }
    pub(super) fn latent_channels() -> i64 {
        4
    }
    pub(super) fn norm_groups() -> i64 {
        32
    }
    pub(super) fn mid_attention() -> bool {
        true
    }
}
