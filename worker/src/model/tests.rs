//! The networks against the official sizes, and what training and loading rely on.

use std::collections::BTreeMap;

use common::config::{AutoencoderConfig, Config, PositionEmbedding, SlotAttentionConfig, SlotAttentionStart, load};
use tch::{Device, Kind, Tensor};

use super::weights::{Differences, WeightsError, from_safetensors, to_safetensors};
use super::*;

/// The sizes of the published MOVi-E experiment.
const MOVI_E: &str = r#"
    [backbone]
    stride = 4
    block_channels = [128, 128, 256, 512]
    layers_per_block = 1
    out_channels = 192
    norm_groups = 16
    mid_attention_head_dim = 8
    [slot_attention]
    slots = 24
    slot_size = 192
    mlp_hidden = 192
    out_size = 192
    [unet]
    block_channels = [192, 384, 768, 768]
    layers_per_block = 2
    attention = [true, true, true, false]
    heads = 24
    norm_groups = 24
"#;

/// The autoencoder of Stable Diffusion.
const STABLE_DIFFUSION: &str = r#"
    weights = "unused"
    block_channels = [128, 256, 512, 512]
"#;

fn shapes(module: &Module) -> BTreeMap<&str, Vec<i64>> {
    module.variables.iter().map(|variable| (variable.name.as_str(), variable.tensor.size())).collect()
}

fn trainable(module: &Module) -> usize {
    module.variables.iter().filter(|variable| variable.trainable).map(|variable| variable.tensor.numel()).sum()
}

fn quickstart() -> Config {
    load::from_str(include_str!("../../../configs/quickstart.toml"), "quickstart.toml", &[]).unwrap()
}

fn small_model(seed: u64) -> (LatentSlotDiffusion, Sizes) {
    let config = quickstart();
    let sizes = Sizes::of(&config);
    (LatentSlotDiffusion::new(&config.model, sizes, Initial::Seed(seed), Device::Cpu), sizes)
}

fn images(count: i64, resolution: i64) -> Tensor {
    Tensor::rand([count, 3, resolution, resolution], (Kind::Float, Device::Cpu)) * 2.0 - 1.0
}

#[test]
fn movi_e_networks_have_the_official_tensors() {
    let config: ModelConfig = toml::from_str(MOVI_E).unwrap();
    let sizes = Sizes { resolution: 256, latent_side: 32, latent_channels: 4 };
    let model = LatentSlotDiffusion::new(&config, sizes, Initial::Unset, Device::Cpu);
    let [backbone, slot_attention, unet] = &model.modules;

    let counts = [backbone, slot_attention, unet].map(|module| (module.variables.len(), trainable(module)));
    assert_eq!(counts, [(194, 42_571_840), (32, 521_472), (782, 305_588_932)]);

    for (name, shape) in [
        ("downscale_cnn.weight", vec![128, 3, 4, 4]),
        ("conv_in.weight", vec![128, 128, 3, 3]),
        ("time_embedding.linear_1.weight", vec![512, 128]),
        ("down_blocks.2.resnets.0.conv_shortcut.weight", vec![256, 128, 1, 1]),
        ("mid_block.attentions.0.to_out.0.bias", vec![512]),
        ("up_blocks.0.resnets.1.conv1.weight", vec![512, 768, 3, 3]),
        ("up_blocks.3.resnets.1.conv_shortcut.weight", vec![128, 256, 1, 1]),
        ("conv_out.weight", vec![192, 128, 3, 3]),
    ] {
        assert_eq!(shapes(backbone).get(name), Some(&shape), "{name}");
    }
    for (name, shape) in [
        ("slot_mu", vec![1, 1, 192]),
        ("pos.pe", vec![1, 4, 64, 64]),
        ("pos.projection.weight", vec![192, 4, 1, 1]),
        ("in_mlp.2.weight", vec![192, 192]),
        ("gru.weight_ih", vec![576, 192]),
        ("project_k.weight", vec![192, 192]),
        ("out_linear.bias", vec![192]),
    ] {
        assert_eq!(shapes(slot_attention).get(name), Some(&shape), "{name}");
    }
    for (name, shape) in [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.pos_emb.1.pe", vec![1, 4, 32, 32]),
        ("up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k.weight", vec![768, 192]),
        ("mid_block.attentions.0.proj_in.weight", vec![768, 768, 1, 1]),
        ("mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight", vec![6144, 768]),
        ("up_blocks.1.resnets.2.conv1.weight", vec![768, 1152, 3, 3]),
        ("up_blocks.2.upsamplers.0.conv.weight", vec![384, 384, 3, 3]),
        ("conv_in.weight", vec![192, 4, 3, 3]),
    ] {
        assert_eq!(shapes(unet).get(name), Some(&shape), "{name}");
    }
    assert!(!shapes(unet).keys().any(|name| name.starts_with("up_blocks.0.attentions")));
}

#[test]
fn the_autoencoder_of_stable_diffusion_has_its_tensors() {
    let config: AutoencoderConfig = toml::from_str(STABLE_DIFFUSION).unwrap();
    let autoencoder = Autoencoder::new(&config, Initial::Unset, Device::Cpu);
    assert_eq!((autoencoder.module.variables.len(), trainable(&autoencoder.module)), (248, 83_653_863));
    let shapes = shapes(&autoencoder.module);
    assert_eq!(shapes.get("encoder.conv_out.weight"), Some(&vec![8, 512, 3, 3]));
    assert_eq!(shapes.get("encoder.down_blocks.1.downsamplers.0.conv.weight"), Some(&vec![256, 256, 3, 3]));
    assert_eq!(shapes.get("decoder.mid_block.attentions.0.to_q.weight"), Some(&vec![512, 512]));
    assert_eq!(shapes.get("decoder.up_blocks.2.resnets.0.conv_shortcut.weight"), Some(&vec![256, 512, 1, 1]));
}

#[test]
fn every_parameter_learns_from_the_denoising_loss() {
    let (model, sizes) = small_model(1);
    let options = (Kind::Float, Device::Cpu);
    let [slots, slot_size] = model.slot_attention.slots_shape();
    let latents = Tensor::randn([2, sizes.latent_channels, sizes.latent_side, sizes.latent_side], options);

    let features = model.backbone.forward(&images(2, sizes.resolution));
    let found = model
        .slot_attention
        .forward(&features, &model.slot_attention.initial_slots(&Tensor::randn([2, slots, slot_size], options)));
    assert_eq!(found.attention.size()[..2], [2, slots]);
    let shares = found.attention.sum_dim_intlist([1].as_slice(), false, Kind::Float);
    assert!(shares.allclose(&shares.ones_like(), 0.0, 1e-5, false), "the shares of the slots in a token sum to 1");

    let prediction = model.unet.forward(&latents, &Tensor::from_slice(&[3_i64, 700]), &found.conditioning);
    assert_eq!(prediction.size(), latents.size());
    prediction.mse_loss(&latents, tch::Reduction::Mean).backward();
    for module in &model.modules {
        for variable in module.variables.iter().filter(|variable| variable.trainable) {
            let gradient = variable.tensor.grad();
            assert!(gradient.defined(), "{}.{} has no gradient", module.name, variable.name);
            assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{}.{}", module.name, variable.name);
        }
    }
}

/// A picture of two flat halves: at the start, k-means tells them apart, and the random start does not.
#[test]
fn slots_that_start_as_k_means_group_like_tokens() {
    let apart = |start| {
        let mut config = quickstart().model;
        config.slot_attention = SlotAttentionConfig { start, position_embedding: PositionEmbedding::None, ..config.slot_attention };
        let variables = Variables::new("slot_attention", Initial::Seed(1), Device::Cpu);
        let slot_attention = SlotAttention::new(&variables.root(), &config.slot_attention, config.backbone.out_channels, 8);
        tch::manual_seed(1);
        let halves =
            Tensor::randn([1, config.backbone.out_channels, 1, 2], (Kind::Float, Device::Cpu)).repeat_interleave_self_int(4, 3, 8);
        let noise = Tensor::zeros([1, config.slot_attention.slots, config.slot_attention.slot_size], (Kind::Float, Device::Cpu));
        let found = slot_attention.forward(&halves.expand([1, -1, 8, 8], false), &slot_attention.initial_slots(&noise));
        // How much of the left half's attention would have to change hands to become the right half's.
        (found.attention.select(3, 0) - found.attention.select(3, 7)).abs().sum(Kind::Float).double_value(&[]) / (2.0 * 8.0)
    };
    let (k_means, random) = (apart(SlotAttentionStart::KMeans), apart(SlotAttentionStart::Random));
    assert!(k_means > 0.5 && random < 0.1, "{k_means}, {random}");
}

#[test]
fn initial_weights_depend_on_the_seed_alone() {
    let weights = |seed| small_model(seed).0.modules.map(|module| to_safetensors(&module.variables).unwrap());
    assert!(weights(7) == weights(7), "equal seeds give equal weights");
    assert!(weights(7) != weights(8), "different seeds give different weights");
}

#[test]
fn weights_come_back_unchanged_and_foreign_ones_change_nothing() {
    let config = quickstart();
    let (first, second) = ([1, 2]).map(|seed| Autoencoder::new(&config.autoencoder, Initial::Seed(seed), Device::Cpu)).into();
    let file = std::path::Path::new("autoencoder.safetensors");
    let (of_first, of_second) =
        (to_safetensors(&first.module.variables).unwrap(), to_safetensors(&second.module.variables).unwrap());

    let other = AutoencoderConfig { latent_channels: 8, mid_attention: true, ..config.autoencoder.clone() };
    let foreign = to_safetensors(&Autoencoder::new(&other, Initial::Seed(1), Device::Cpu).module.variables).unwrap();
    let error = from_safetensors(file, &foreign, &second.module.variables).unwrap_err();
    let WeightsError::Differ { differences: Differences { missing, extra, misshapen }, .. } = &error else { panic!("{error}") };
    assert_eq!((missing.len(), extra.len(), misshapen.len()), (0, 20, 7), "{error}");
    assert!(to_safetensors(&second.module.variables).unwrap() == of_second, "a refused file changes nothing");

    from_safetensors(file, &of_first, &second.module.variables).unwrap();
    assert!(to_safetensors(&second.module.variables).unwrap() == of_first);
    assert!(from_safetensors(file, &of_first[..of_first.len() - 1], &second.module.variables).is_err(), "a truncated file");
}

#[test]
fn older_names_of_the_autoencoders_attention_are_understood() {
    let config = AutoencoderConfig { mid_attention: true, ..quickstart().autoencoder };
    let autoencoder = Autoencoder::new(&config, Initial::Seed(1), Device::Cpu);
    let old_name = |name: &str| {
        let pairs = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
        pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    };
    let old = autoencoder.module.variables.iter().map(|variable| {
        let projection = variable.name.contains(".to_") && variable.name.ends_with("weight");
        let tensor = if projection { variable.tensor.unsqueeze(-1).unsqueeze(-1) } else { variable.tensor.shallow_clone() };
        Variable { name: old_name(&variable.name), tensor, trainable: true }
    });
    let file = to_safetensors(&old.collect::<Vec<_>>()).unwrap();
    let fresh = Autoencoder::new(&config, Initial::Seed(2), Device::Cpu);
    from_safetensors(std::path::Path::new("old.safetensors"), &file, &fresh.module.variables).unwrap();
    assert!(to_safetensors(&fresh.module.variables).unwrap() == to_safetensors(&autoencoder.module.variables).unwrap());
}
