//! The layout of the official implementation's checkpoints, a folder per network as diffusers writes it:
//!
//! ```text
//! unetencoder/                   the backbone, a UNet2DModel behind one more convolution
//! multiheadstevesa/              Slot Attention
//! unet2dconditionmodelwithpos/   the denoiser, a UNet2DConditionModel with positions in its attentions
//!   config.json                  class and constructor arguments
//!   diffusion_pytorch_model.safetensors
//! ```
//!
//! Its optimizer state (`optimizer.bin`) is a Python pickle and is neither read nor written.

use serde_json::{Value, json};

use crate::config::{Config, PositionEmbedding, SlotInitialisation};

/// The release of diffusers that the official implementation names in its files.
const DIFFUSERS: &str = "0.21.4";

/// Added to the attention before it is normalised over the tokens.
pub const EPSILON: f64 = 1e-6;

/// One of the three networks.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Our name of it, as in the configuration.
    pub module: &'static str,
    /// Its folder.
    pub folder: &'static str,
    describe: fn(&Config) -> Value,
}

/// All three, in the order in which an image passes through them.
pub const NETWORKS: [Network; 3] = [
    Network { module: "backbone", folder: "unetencoder", describe: backbone },
    Network { module: "slot_attention", folder: "multiheadstevesa", describe: slot_attention },
    Network { module: "unet", folder: "unet2dconditionmodelwithpos", describe: unet },
];

/// The network that we call `module`.
#[must_use]
pub fn network(module: &str) -> Option<Network> {
    NETWORKS.into_iter().find(|network| network.module == module)
}

/// The part of our own checkpoints with a module's weights, or with their moving average: such a part is the file of the folder.
#[must_use]
pub fn weights_part(module: &str, average: bool) -> String {
    let folder = network(module).map_or(module, |network| network.folder);
    format!("{}-{folder}", if average { "ema" } else { "weights" })
}

impl Network {
    /// Its `config.json` for the networks of `config`.
    #[must_use]
    pub fn description(&self, config: &Config) -> Value {
        (self.describe)(config)
    }
}

fn backbone(config: &Config) -> Value {
    let shape = &config.model.backbone;
    let levels = shape.block_channels.len();
    json!({
        "_class_name": "UNetEncoder",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "add_attention": shape.mid_attention_head_dim > 0,
        "attention_head_dim": if shape.mid_attention_head_dim > 0 { shape.mid_attention_head_dim } else { 8 },
        "block_out_channels": shape.block_channels,
        "center_input_sample": false,
        "down_block_types": vec!["DownBlock2D"; levels],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": shape.block_channels.first(),
        "input_channels": 3,
        "input_resolution": config.data.resolution,
        "layers_per_block": shape.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": shape.norm_groups,
        "out_channels": shape.out_channels,
        "sample_size": config.data.resolution as i64 / shape.stride,
        "time_embedding_type": "positional",
        "up_block_types": vec!["UpBlock2D"; levels],
    })
}

fn slot_attention(config: &Config) -> Value {
    let shape = &config.model.slot_attention;
    let mut description = json!({
        "_class_name": "MultiHeadSTEVESA",
        "_diffusers_version": DIFFUSERS,
        "bi_level": shape.bi_level,
        "epsilon": EPSILON,
        "input_resolution": config.data.resolution as i64 / config.model.backbone.stride,
        "input_size": config.model.backbone.out_channels,
        "learnable_slot_init": shape.initialisation == SlotInitialisation::Learned,
        "mlp_hidden_size": shape.mlp_hidden,
        "num_heads": shape.heads,
        "num_iterations": shape.iterations,
        "num_slots": shape.slots,
        "out_size": shape.out_size,
        "slot_size": shape.slot_size,
    });
    // The official class knows the Cartesian one alone, and no such argument.
    if shape.position_embedding != PositionEmbedding::Cartesian {
        description["pos_type"] = json!(shape.position_embedding);
    }
    description
}

fn unet(config: &Config) -> Value {
    let shape = &config.model.unet;
    let channels = config.autoencoder.latent_channels;
    let named = |with: &'static str, without: &'static str| move |attends: &bool| if *attends { with } else { without };
    let down = shape.attention.iter().map(named("CrossAttnDownBlock2D", "DownBlock2D"));
    let up = shape.attention.iter().rev().map(named("CrossAttnUpBlock2D", "UpBlock2D"));
    json!({
        "_class_name": "UNet2DConditionModelWithPos",
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        // The number of heads, in spite of its name.
        "attention_head_dim": shape.heads,
        "block_out_channels": shape.block_channels,
        "center_input_sample": false,
        "cross_attention_dim": config.model.slot_attention.out_size,
        "down_block_types": down.collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": channels,
        "layers_per_block": shape.layers_per_block,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "norm_num_groups": shape.norm_groups,
        "out_channels": channels,
        "pos_type": shape.position_embedding,
        "sample_size": config.data.resolution >> (config.autoencoder.block_channels.len() - 1),
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
        "up_block_types": up.collect::<Vec<_>>(),
        "use_linear_projection": false,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::load;
    use serde_json::Map;

    /// What the published configuration folders of MOVi-E say, as far as it can vary.
    const PUBLISHED: &str = r#"{
        "unetencoder": {
            "_class_name": "UNetEncoder", "add_attention": true, "attention_head_dim": 8, "block_out_channels": [128, 128, 256, 512],
            "in_channels": 128, "input_channels": 3, "input_resolution": 256, "layers_per_block": 1, "norm_num_groups": 16,
            "out_channels": 192, "sample_size": 64, "norm_eps": 1e-05
        },
        "multiheadstevesa": {
            "_class_name": "MultiHeadSTEVESA", "bi_level": false, "epsilon": 1e-06, "input_resolution": 64, "input_size": 192,
            "learnable_slot_init": false, "mlp_hidden_size": 192, "num_heads": 1, "num_iterations": 3, "num_slots": 24,
            "slot_size": 192, "out_size": 192
        },
        "unet2dconditionmodelwithpos": {
            "_class_name": "UNet2DConditionModelWithPos", "attention_head_dim": 24, "block_out_channels": [192, 384, 768, 768],
            "cross_attention_dim": 192, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 24,
            "pos_type": "cartesian", "sample_size": 32, "norm_eps": 1e-05,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
        }
    }"#;

    #[test]
    fn movi_e_is_described_as_its_authors_published_it() {
        let text = include_str!("../../configs/movi-e.toml");
        let config = load::from_str(text, "movi-e.toml", &[]).unwrap();
        let published: Map<String, Value> = serde_json::from_str(PUBLISHED).unwrap();
        for network in NETWORKS {
            let (ours, theirs) = (network.description(&config), &published[network.folder]);
            for (key, value) in theirs.as_object().unwrap() {
                assert_eq!(ours[key], *value, "{key} of {}", network.folder);
            }
        }
    }
}
