//! Our side of `tests/peers/parity.py`: loads the peer's weights and inputs from a folder, and writes our outputs and gradients there.
//!
//! Usage: `parity CONFIG FOLDER`

use anyhow::{Context, Result};
use common::config::load;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Reduction, Tensor};
use worker::model::{Autoencoder, Initial, LatentSlotDiffusion, Module, Sizes, weights};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, folder] = &arguments[..] else { anyhow::bail!("usage: parity CONFIG FOLDER") };
    let (config, folder) = (load::from_file(Path::new(config), &[])?, Path::new(folder));
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, Device::Cpu);
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Unset, Device::Cpu);
    for module in model.modules.iter().chain([&autoencoder.module]) {
        let file = folder.join(format!("{}.safetensors", module.name));
        weights::from_safetensors(&file, &std::fs::read(&file)?, &module.variables)?;
    }
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(folder.join("inputs.safetensors"))?.into_iter().collect();
    let input = |name: &str| inputs.get(name).with_context(|| format!("inputs.safetensors has no {name}"));

    let features = model.backbone.forward(input("images")?);
    let slots = model.slot_attention.forward(&features, &model.slot_attention.initial_slots(input("slot_noise")?));
    let prediction = model.unet.forward(input("noisy")?, input("timesteps")?, &slots.conditioning);
    prediction.mse_loss(input("target")?, Reduction::Mean).backward();
    let moments = autoencoder.encode_moments(input("images")?);
    let decoded = autoencoder.decode(input("latents")?);
    (moments.square().mean(tch::Kind::Float) + decoded.square().mean(tch::Kind::Float)).backward();

    let mut outputs = vec![
        ("features".to_owned(), features),
        ("slots".to_owned(), slots.slots),
        ("attention".to_owned(), slots.attention),
        ("conditioning".to_owned(), slots.conditioning),
        ("prediction".to_owned(), prediction),
        ("moments".to_owned(), moments),
        ("decoded".to_owned(), decoded),
    ];
    outputs.extend(model.modules.iter().chain([&autoencoder.module]).flat_map(gradients));
    let outputs: Vec<(String, Tensor)> = outputs.into_iter().map(|(name, tensor)| (name, tensor.detach().contiguous())).collect();
    Tensor::write_safetensors(&outputs, folder.join("outputs.safetensors"))?;
    Ok(())
}

/// The gradients of a module's variables, as `gradient/MODULE/NAME`.
fn gradients(module: &Module) -> impl Iterator<Item = (String, Tensor)> + '_ {
    let trainable = module.variables.iter().filter(|variable| variable.trainable);
    trainable.map(|variable| (format!("gradient/{}/{}", module.name, variable.name), variable.tensor.grad()))
}
