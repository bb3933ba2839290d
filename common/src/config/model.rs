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
    /// How the weights start.
    #[serde(default)]
    pub start: SlotAttentionStart,
    /// Gradients flow through the last round alone, and straight through it to the learned initial slots (implicit differentiation,
    /// Jia et al. 2023, BO-QSA); needs `initialisation = "learned"`.
    #[serde(default)]
    pub bi_level: bool,
    /// Position embedding of the tokens.
    #[serde(default)]
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

/// How the weights of Slot Attention start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotAttentionStart {
    /// As PyTorch's layers do (the reference).
    #[default]
    Random,
    /// As a soft k-means of the tokens: queries, keys, values and the new slot are what they are made from, so that the slots of an
    /// image differ, and say where and what they are, from the first step on. Our choice, for runs too short to find this out; needs
    /// tokens, slots and conditioning of the same size.
    KMeans,
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
    #[serde(default)]
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
    /// Sines and cosines of column and row, from a quarter of a period to two periods over the whole grid, as strong as what they are
    /// added to: our choice, with which it is learned soonest where a slot belongs; channels must divide by 4.
    Fourier,
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
    /// First beta; without effect for `betas = "cosine"`.
    pub beta_start: f64,
    /// Last beta; without effect for `betas = "cosine"`.
    pub beta_end: f64,
    /// How the betas lie between the two.
    pub betas: Betas,
    /// What the UNet predicts.
    pub prediction: Prediction,
    /// Factor on the already normalised latents: below 1 every timestep is noisier, so that more of them need the slots.
    pub latent_scale: f64,
    /// Largest signal-to-noise ratio that counts in full: timesteps with less noise weigh less in the loss (Hang et al. 2023, 5 in their
    /// work). 0 weighs all timesteps alike, as the paper does.
    pub snr_gamma: f64,
    /// Deviation of noise that is constant over an image's latent, one number per channel, and comes on top of the other noise, so that
    /// mean colours are learned too. 0 for none; the reference offers 0.1.
    pub offset_noise: f64,
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
            snr_gamma: 0.0,
            offset_noise: 0.0,
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
    /// Such that alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021, eq. 17; diffusers' `squaredcos_cap_v2`).
    Cosine,
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

fn one() -> i64 {
    1
}

fn three() -> usize {
    3
}
