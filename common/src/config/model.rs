//! `[model]` and `[diffusion]`: backbone, Slot Attention, slot-conditioned UNet, noise schedule and target.

use serde::{Deserialize, Serialize};

/// `[model]`: the trained networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// `[model.backbone]`: the CNN that turns the image into tokens.
    pub backbone: BackboneConfig,
    /// `[model.slot_attention]`: tokens to slots.
    pub slot_attention: SlotAttentionConfig,
    /// `[model.unet]`: the denoiser, conditioned on the slots.
    pub unet: UnetConfig,
    /// URL of a checkpoint in the official layout (folders `unetencoder`, `multiheadstevesa` and `unet2dconditionmodelwithpos`) whose
    /// weights a new run starts from; absent: random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<String>,
}

/// `[model.backbone]`: a strided convolution, then a UNet at the token resolution (the reference's `UNetEncoder`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Kernel and stride of the first convolution; tokens form a grid of side `resolution / stride`.
    pub stride: i64,
    /// Channels of each level; the first is also the width of the strided convolution.
    pub block_channels: Vec<i64>,
    /// Residual blocks per level on the way down (one more on the way up).
    pub layers_per_block: usize,
    /// Channels of the tokens.
    pub out_channels: i64,
    /// Groups of every GroupNorm.
    pub norm_groups: i64,
    /// Channels per head of the middle block's self-attention; 0 leaves that attention out.
    pub mid_attention_head_dim: i64,
}

/// `[model.slot_attention]`: Slot Attention with several heads (the reference's `MultiHeadSTEVESA`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotAttentionConfig {
    /// Number of slots.
    pub slots: i64,
    /// Channels of a slot.
    pub slot_size: i64,
    /// Attention heads.
    #[serde(default = "one")]
    pub heads: i64,
    /// Rounds of competition and update.
    #[serde(default = "three")]
    pub iterations: usize,
    /// Hidden width of the slot MLP.
    pub mlp_hidden: i64,
    /// How slots start: drawn from one learned Gaussian, or one learned vector each.
    #[serde(default)]
    pub initialisation: SlotInitialisation,
    /// Gradients flow through the last round alone, and straight through it to the learned initial slots (implicit differentiation,
    /// Jia et al. 2023, BO-QSA); needs `initialisation = "learned"`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bi_level: bool,
    /// Position embedding of the tokens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub position_embedding: PositionEmbedding,
    /// Channels of the conditioning that the UNet sees (the reference's `out_linear`).
    pub out_size: i64,
}

/// How slots start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotInitialisation {
    /// mu + exp(log_sigma) * noise, with mu and log_sigma shared by all slots.
    #[default]
    Sampled,
    /// One learned vector per slot.
    Learned,
}

/// `[model.unet]`: the reference's `UNet2DConditionModelWithPos`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels of each level.
    pub block_channels: Vec<i64>,
    /// Residual blocks per level on the way down (one more on the way up).
    pub layers_per_block: usize,
    /// Whether each level has transformer blocks; the middle block always has one.
    pub attention: Vec<bool>,
    /// Attention heads of every transformer block.
    pub heads: i64,
    /// Groups of every GroupNorm.
    pub norm_groups: i64,
    /// Position embedding added at the input of every attention.
    #[serde(default)]
    pub position_embedding: PositionEmbedding,
    /// Keep the maps between levels alone for the backward pass and compute the levels a second time there: less memory, one more
    /// forward pass, the same gradients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
}

/// Position embedding of the tokens and of every attention input of the UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionEmbedding {
    /// A 1x1 convolution of (row, column, 1 - row, 1 - column).
    #[default]
    Cartesian,
    /// Sines and cosines of column and row at fixed frequencies, times one learned factor; channels must divide by 4.
    Sincos,
    /// One learned vector per position.
    Learned,
    /// None.
    None,
}

/// `[diffusion]`: noise schedule and training target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// Number of noise levels T.
    pub timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// How the betas lie between the two.
    pub betas: Betas,
    /// What the UNet predicts.
    pub prediction: Prediction,
    /// Factor on the already normalised latents: below 1 every timestep is noisier, so that more of them need the slots.
    pub latent_scale: f64,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            betas: Betas::Linear,
            prediction: Prediction::Epsilon,
            latent_scale: 1.0,
        }
    }
}

/// How betas are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Betas {
    /// Evenly.
    Linear,
    /// Evenly in their square roots (Stable Diffusion).
    ScaledLinear,
}

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise (the paper's objective).
    Epsilon,
    /// The velocity sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * z.
    V,
}

/// Keys that came later are not written at their default, so that the identity of older runs stays what it was.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> i64 {
    1
}

fn three() -> usize {
    3
}
