//! Public weights under all their names and in all their places, and official checkpoints as a start.

use std::path::Path;

use common::config::{AutoencoderConfig, Config, load};
use common::official;
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};
use tokio::runtime::Runtime;

use super::*;
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Module, Sizes, Variable};

fn config(overrides: &[&str]) -> Config {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    load::from_str(include_str!("../../../../configs/quickstart.toml"), "quickstart.toml", &overrides).unwrap()
}

fn autoencoder(config: &AutoencoderConfig, seed: u64) -> Autoencoder {
    Autoencoder::new(config, Initial::Seed(seed), Device::Cpu)
}

fn model(config: &Config, seed: u64) -> LatentSlotDiffusion {
    LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(seed), Device::Cpu)
}

/// A module's tensors as a release would have them: renamed, and linear layers of the attention as 1x1 convolutions.
fn release(module: &Module, rename: impl Fn(&str) -> String) -> Vec<Variable> {
    let variables = module.variables.iter().map(|variable| {
        let projection = variable.name.contains(".to_") && variable.name.ends_with("weight");
        let tensor = if projection { variable.tensor.unsqueeze(-1).unsqueeze(-1) } else { variable.tensor.shallow_clone() };
        Variable { name: rename(&variable.name), tensor, trainable: true }
    });
    variables.collect()
}

fn renamed(name: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
}

/// The original names of latent diffusion, for an autoencoder of three levels.
fn original(name: &str) -> String {
    let pairs = [
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("down_blocks.", "down."),
        ("up_blocks.0", "up.two"),
        ("up_blocks.1", "up.1"),
        ("up_blocks.2", "up.0"),
        ("up.two", "up.2"),
        (".resnets.", ".block."),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
    ];
    renamed(name, &pairs)
}

#[test]
fn an_autoencoder_is_understood_under_all_its_names() {
    let config = config(&["autoencoder.mid_attention=true"]).autoencoder;
    let source = autoencoder(&config, 1);
    let expected = to_safetensors(&source.module.variables).unwrap();
    let older = |name: &str| {
        renamed(name, &[(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")])
    };
    let alone = release(&source.module, original);
    assert!(alone.iter().any(|variable| variable.name == "decoder.up.2.upsample.conv.weight"));
    let mut whole = release(&source.module, |name| format!("first_stage_model.{}", original(name)));
    for other in ["model.diffusion_model.out.2.bias", "cond_stage_model.logit_scale", "first_stage_model.loss.logvar"] {
        whole.push(Variable { name: other.into(), tensor: Tensor::from_slice(&[1_f32]), trainable: true });
    }
    for (what, variables) in [("older diffusers", release(&source.module, older)), ("original", alone), ("Stable Diffusion", whole)]
    {
        let fresh = autoencoder(&config, 2);
        from_safetensors(Path::new("release.safetensors"), &to_safetensors(&variables).unwrap(), &fresh.module.variables).unwrap();
        assert!(to_safetensors(&fresh.module.variables).unwrap() == expected, "{what}");
    }
    let mut short = release(&source.module, original);
    short.retain(|variable| variable.name != "encoder.mid.attn_1.q.weight");
    let fresh = autoencoder(&config, 2);
    let error = from_safetensors(Path::new("short.safetensors"), &to_safetensors(&short).unwrap(), &fresh.module.variables);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("1 missing (encoder.mid_block.attentions.0.to_q.weight)"), "{text}");
}

#[test]
fn one_file_will_do_and_its_digest_is_checked() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kl-f8.safetensors");
    let mut config = config(&[]).autoencoder;
    let source = autoencoder(&config, 1);
    let bytes = to_safetensors(&release(&source.module, original)).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    config.weights = format!("file://{}", file.display());
    let load = |config: &AutoencoderConfig| Autoencoder::load(config, Device::Cpu, runtime.handle());

    let text = load(&config).unwrap_err().to_string();
    assert!(text.contains("kl-f8.safetensors") && text.contains("set autoencoder.scaling_factor"), "{text}");
    config.scaling_factor = Some(0.18215);
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    config.sha256 = Some(digest.clone());
    let loaded = load(&config).unwrap();
    assert!(to_safetensors(&loaded.module.variables).unwrap() == to_safetensors(&source.module.variables).unwrap());

    config.sha256 = Some("0".repeat(64));
    let error = load(&config).unwrap_err();
    let digest = digest.to_lowercase();
    let expected = format!("{}: expected sha256 {} (autoencoder.sha256), found {digest}", file.display(), "0".repeat(64));
    assert_eq!((error.to_string(), error.is_bad_input()), (expected, true));
    config.weights = folder.path().join("absent.safetensors").display().to_string();
    let error = load(&config).unwrap_err();
    assert!(
        error.is_bad_input() && error.to_string().contains("absent.safetensors: no such file; run the autoencoder job"),
        "{error}"
    );
}

/// Writes the networks as the official implementation does.
fn write_official(config: &Config, model: &LatentSlotDiffusion, folder: &Path) {
    for module in &model.modules {
        let network = official::network(module.name).unwrap();
        save_folder(&folder.join(network.folder), &network.description(config), &module.variables).unwrap();
    }
}

fn bytes(model: &LatentSlotDiffusion) -> Vec<Vec<u8>> {
    model.modules.iter().map(|module| to_safetensors(&module.variables).unwrap()).collect()
}

#[test]
fn an_official_checkpoint_is_loaded_whole_or_not_at_all() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (source, target) = (model(&config, 1), model(&config, 2));
    write_official(&config, &source, folder.path());
    let url = folder.path().display().to_string();
    let load = |config: &Config, target: &LatentSlotDiffusion| load_official(&url, config, &target.modules, runtime.handle());

    load(&config, &target).unwrap();
    assert!(bytes(&target) == bytes(&source));

    let other = self::config(&["model.unet.heads=4"]);
    let text = load(&other, &target).unwrap_err().to_string();
    assert!(text.contains("unet2dconditionmodelwithpos/config.json: attention_head_dim is 2 there and 4"), "{text}");
    // The last of the three networks differs: the first two must not have been loaded.
    let other = self::config(&["model.unet.block_channels=[32, 96]"]);
    let target = model(&other, 3);
    let before = bytes(&target);
    let text = load(&other, &target).unwrap_err().to_string();
    assert!(text.contains("unet2dconditionmodelwithpos") && text.contains("misshapen"), "{text}");
    assert!(bytes(&target) == before, "a refused checkpoint changes nothing");
    std::fs::remove_dir_all(folder.path().join("multiheadstevesa")).unwrap();
    let text = load(&config, &model(&config, 2)).unwrap_err().to_string();
    assert!(text.contains("multiheadstevesa: no weights here") && text.contains("model.initial_weights"), "{text}");
}
