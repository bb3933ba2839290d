//! The KL autoencoder of latent diffusion (the family of diffusers' `AutoencoderKL`): image to posterior moments, latent to image.

use std::path::Path;

use common::config::AutoencoderConfig;
use serde_json::{Value, json};
use tch::{Device, Tensor};
use tokio::runtime::Handle;

use super::blocks::attention::MapAttention;
use super::blocks::resnet::{Downsample, Norm, Padding, ResnetBlock, Time, Upsample};
use super::layers::{Conv2d, GroupNorm};
use super::variables::{Initial, Scope, Variables};
use super::weights::{self, WeightsError};
use super::{Module, Variable};

/// Encoder and decoder, frozen while the diffusion model trains.
#[derive(Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    /// All variables, under their official names.
    pub module: Module,
    /// Latents are multiplied by this before diffusion, so that their standard deviation is about 1.
    pub scaling_factor: f64,
    /// BLAKE3 of the file that the weights come from, in hexadecimal; empty while they are trained.
    pub digest: String,
}

impl Autoencoder {
    /// Builds the networks; the scaling factor is the configured one, or 1 until it is measured.
    pub fn new(config: &AutoencoderConfig, initial: Initial, device: Device) -> Self {
        let variables = Variables::new("autoencoder", initial, device);
        let root = variables.root();
        let (moments, latent) = (2 * config.latent_channels, config.latent_channels);
        Self {
            encoder: Encoder::new(&(&root / "encoder"), config),
            quant_conv: Conv2d::pointwise(&(&root / "quant_conv"), moments, moments),
            post_quant_conv: Conv2d::pointwise(&(&root / "post_quant_conv"), latent, latent),
            decoder: Decoder::new(&(&root / "decoder"), config),
            module: variables.into_module(),
            scaling_factor: config.scaling_factor.unwrap_or(1.0),
            digest: String::new(),
        }
    }

    /// The same networks for another thread, which share the memory of the weights. `config` is that of these networks.
    pub fn twin(&self, config: &AutoencoderConfig, device: Device) -> Self {
        let twin =
            Self { scaling_factor: self.scaling_factor, digest: self.digest.clone(), ..Self::new(config, Initial::Unset, device) };
        twin.module.share(&self.module);
        twin
    }

    /// Reads `config.weights`, a folder or a file. A configured scaling factor wins over the folder's.
    ///
    /// # Errors
    /// When a file cannot be read or is not the one with the configured digest, the weights differ from the configured architecture, or
    /// no scaling factor is known.
    pub fn load(config: &AutoencoderConfig, device: Device, runtime: &Handle) -> Result<Self, WeightsError> {
        let advice = "run the autoencoder job, or set autoencoder.weights to a folder or file that holds them";
        let found = weights::find(&config.weights, advice, runtime)?;
        if let Some(expected) = &config.sha256 {
            found.check_sha256("autoencoder.sha256", expected)?;
        }
        let mut autoencoder = Self::new(config, Initial::Unset, device);
        weights::from_safetensors(Path::new(&found.file), &found.bytes, &autoencoder.module.variables)?;
        autoencoder.module.variables.iter().for_each(freeze);
        autoencoder.digest = blake3::hash(&found.bytes).to_hex().to_string();
        let stored = || found.description["scaling_factor"].as_f64();
        autoencoder.scaling_factor = config.scaling_factor.or_else(stored).ok_or_else(|| WeightsError::Format {
            file: found.file.clone(),
            reason: "no scaling_factor is stored with the weights; set autoencoder.scaling_factor".into(),
        })?;
        Ok(autoencoder)
    }

    /// Writes the diffusers layout into `folder`: the weights, then `config.json`, each replaced atomically.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, config: &AutoencoderConfig, resolution: usize) -> Result<(), WeightsError> {
        weights::save_folder(folder, &self.description(config, resolution), &self.module.variables)
    }

    /// Images f32 [B, 3, H, W] in [-1, 1] -> posterior moments [B, 2 C, h, w]: mean, then log-variance in [-30, 20].
    pub fn encode_moments(&self, images: &Tensor) -> Tensor {
        let moments = self.quant_conv.forward(&self.encoder.forward(&images.contiguous())).chunk(2, 1);
        Tensor::cat(&[&moments[0], &moments[1].clamp(-30.0, 20.0)], 1)
    }

    /// Moments [B, 2 C, h, w] and standard normal noise [B, C, h, w] -> unscaled latents [B, C, h, w].
    pub fn sample(moments: &Tensor, noise: &Tensor) -> Tensor {
        let moments = moments.chunk(2, 1);
        &moments[0] + (&moments[1] * 0.5).exp() * noise
    }

    /// Unscaled latents [B, C, h, w] -> images [B, 3, H, W], nominally in [-1, 1].
    pub fn decode(&self, z: &Tensor) -> Tensor {
        self.decoder.forward(&self.post_quant_conv.forward(&z.contiguous()))
    }

    /// `config.json` as diffusers writes it.
    fn description(&self, config: &AutoencoderConfig, resolution: usize) -> Value {
        let levels = config.block_channels.len();
        json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": config.block_channels,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "in_channels": 3,
            "latent_channels": config.latent_channels,
            "layers_per_block": config.layers_per_block,
            "mid_block_add_attention": config.mid_attention,
            "norm_num_groups": config.norm_groups,
            "out_channels": 3,
            "sample_size": resolution,
            "scaling_factor": self.scaling_factor,
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
        })
    }
}

fn freeze(variable: &Variable) {
    let _frozen = variable.tensor.set_requires_grad(false);
}

fn norm(config: &AutoencoderConfig) -> Norm {
    Norm { groups: config.norm_groups, epsilon: 1e-6 }
}

/// Residual block, self-attention with one head, residual block.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock; 2],
    attention: Option<MapAttention>,
}

impl MidBlock {
    fn new(scope: &Scope, channels: i64, config: &AutoencoderConfig) -> Self {
        let resnet = |i: usize| ResnetBlock::new(&(scope / "resnets" / i), channels, channels, None, norm(config));
        let attention = || MapAttention::new(&(scope / "attentions.0"), channels, channels, norm(config));
        Self { resnets: [resnet(0), resnet(1)], attention: config.mid_attention.then(attention) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.resnets[0].forward(x, Time::None);
        let x = self.attention.as_ref().map_or_else(|| x.shallow_clone(), |attention| attention.forward(&x));
        self.resnets[1].forward(&x, Time::None)
    }
}

/// Residual blocks of one level, and the change of resolution after them.
#[derive(Debug)]
struct Level<R> {
    resnets: Vec<ResnetBlock>,
    resample: Option<R>,
}

impl<R> Level<R> {
    fn new(scope: &Scope, input: i64, output: i64, layers: usize, resample: Option<R>, norm: Norm) -> Self {
        let resnet = |i| ResnetBlock::new(&(scope / "resnets" / i), if i == 0 { input } else { output }, output, None, norm);
        Self { resnets: (0..layers).map(resnet).collect(), resample }
    }

    fn forward(&self, x: Tensor, resample: impl Fn(&R, &Tensor) -> Tensor) -> Tensor {
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(&x, Time::None));
        self.resample.as_ref().map_or_else(|| x.shallow_clone(), |r| resample(r, &x))
    }
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level<Downsample>>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(scope: &Scope, config: &AutoencoderConfig) -> Self {
        let channels = &config.block_channels;
        let deepest = channels[channels.len() - 1];
        let level = |i: usize| {
            let scope = scope / "down_blocks" / i;
            let downsample = || Downsample::new(&(&scope / "downsamplers.0"), channels[i], Padding::RightBelow);
            let resample = (i + 1 < channels.len()).then(downsample);
            Level::new(&scope, channels[i.saturating_sub(1)], channels[i], config.layers_per_block, resample, norm(config))
        };
        Self {
            conv_in: Conv2d::same(&(scope / "conv_in"), 3, channels[0]),
            levels: (0..channels.len()).map(level).collect(),
            mid_block: MidBlock::new(&(scope / "mid_block"), deepest, config),
            conv_norm_out: norm(config).layer(&(scope / "conv_norm_out"), deepest),
            conv_out: Conv2d::same(&(scope / "conv_out"), deepest, 2 * config.latent_channels),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.levels.iter().fold(self.conv_in.forward(x), |x, level| level.forward(x, Downsample::forward));
        self.conv_out.forward(&self.conv_norm_out.forward(&self.mid_block.forward(&x)).silu())
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    levels: Vec<Level<Upsample>>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(scope: &Scope, config: &AutoencoderConfig) -> Self {
        let channels: Vec<i64> = config.block_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let level = |i: usize| {
            let scope = scope / "up_blocks" / i;
            let resample = (i < last).then(|| Upsample::new(&(&scope / "upsamplers.0"), channels[i]));
            Level::new(&scope, channels[i.saturating_sub(1)], channels[i], config.layers_per_block + 1, resample, norm(config))
        };
        Self {
            conv_in: Conv2d::same(&(scope / "conv_in"), config.latent_channels, channels[0]),
            mid_block: MidBlock::new(&(scope / "mid_block"), channels[0], config),
            levels: (0..=last).map(level).collect(),
            conv_norm_out: norm(config).layer(&(scope / "conv_norm_out"), channels[last]),
            conv_out: Conv2d::same(&(scope / "conv_out"), channels[last], 3),
        }
    }

    fn forward(&self, z: &Tensor) -> Tensor {
        let x = self.mid_block.forward(&self.conv_in.forward(z));
        let x = self.levels.iter().fold(x, |x, level| level.forward(x, Upsample::forward));
        self.conv_out.forward(&self.conv_norm_out.forward(&x).silu())
    }
}
