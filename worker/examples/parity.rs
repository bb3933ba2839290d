//! Our side of `tests/peers/parity.py`: the names and shapes of all tensors; outputs and gradients with the peer's weights and inputs;
//! and what a few steps of training make of the weights.
//!
//! Usage: `parity shapes CONFIG [KEY=VALUE ...]` prints JSON, `parity run CONFIG FOLDER f32|f64 [KEY=VALUE ...]` works in a folder.

use anyhow::{Context, Result, bail};
use common::config::{Config, load};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Reduction, Tensor, no_grad};
use worker::collectives::Communicator;
use worker::data::Batch;
use worker::model::{Autoencoder, Initial, LatentSlotDiffusion, Mixed, Module, Sizes, weights};
use worker::training::laps::Laps;
use worker::training::noise::NoiseRecipe;
use worker::training::reduction::Reducer;
use worker::training::step::{StepRecipe, TrainingState, Wishes};

/// Optimizer steps of the comparison.
const STEPS: u64 = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["shapes", config, ..] => {
            let networks = Networks::new(&load::from_file(Path::new(config), &arguments[2..])?);
            println!("{}", networks.shapes());
            Ok(())
        }
        ["run", config, folder, kind, ..] => {
            let kind = if kind == "f64" { Kind::Double } else { Kind::Float };
            run(&load::from_file(Path::new(config), &arguments[4..])?, Path::new(folder), kind)
        }
        _ => bail!("usage: parity shapes CONFIG [KEY=VALUE ...] | parity run CONFIG FOLDER f32|f64 [KEY=VALUE ...]"),
    }
}

fn run(config: &Config, folder: &Path, kind: Kind) -> Result<()> {
    let networks = Networks::new(config);
    networks.load(folder, kind)?;
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(folder.join("inputs.safetensors"))?.into_iter().collect();
    write(folder, "outputs", networks.outputs(&inputs)?)?;
    let gradients = networks.modules().flat_map(|module| named(module, "gradient", Tensor::grad));
    write(folder, "gradients", gradients.collect())?;
    drop(networks.autoencoder);
    if kind == Kind::Double {
        // In f32 a parameter whose gradient is nothing but rounding would move by the learning rate in a direction of its own.
        let (draws, changes) = train(networks.model, config, &inputs)?;
        write(folder, "draws", draws)?;
        write(folder, "changes", changes)?;
    }
    Ok(())
}

type Named = Vec<(String, Tensor)>;

/// Everything that has weights.
struct Networks {
    model: LatentSlotDiffusion,
    autoencoder: Autoencoder,
}

impl Networks {
    fn new(config: &Config) -> Self {
        let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Unset, Device::Cpu);
        Self { model, autoencoder: Autoencoder::new(&config.autoencoder, Initial::Unset, Device::Cpu) }
    }

    fn modules(&self) -> impl Iterator<Item = &Module> {
        self.model.modules.iter().chain([&self.autoencoder.module])
    }

    /// Module -> name -> shape.
    fn shapes(&self) -> Value {
        let of_module = |module: &Module| -> Map<String, Value> {
            module.variables.iter().map(|variable| (variable.name.clone(), variable.tensor.size().into())).collect()
        };
        self.modules().map(|module| (module.name.to_owned(), Value::from(of_module(module)))).collect::<Map<_, _>>().into()
    }

    /// Loads the peer's weights, and goes on in `kind`.
    fn load(&self, folder: &Path, kind: Kind) -> Result<()> {
        for module in self.modules() {
            let file = folder.join(format!("{}.safetensors", module.name));
            weights::from_safetensors(&file, &std::fs::read(&file)?, &module.variables)?;
            for variable in &module.variables {
                no_grad(|| variable.tensor.shallow_clone().set_data(&variable.tensor.to_kind(kind)));
            }
        }
        Ok(())
    }

    /// What every network makes of the inputs; leaves the gradients of the losses.
    fn outputs(&self, inputs: &BTreeMap<String, Tensor>) -> Result<Named> {
        let Self { model, autoencoder } = self;
        let kind = model.modules[0].variables[0].tensor.kind();
        let input = |name: &str| Ok::<_, anyhow::Error>(inputs.get(name).with_context(|| format!("no {name}"))?.to_kind(kind));
        let features = model.backbone.forward(&input("images")?);
        let slots = model.slot_attention.forward(&features, &model.slot_attention.initial_slots(&input("slot_noise")?));
        let prediction = model.unet.forward(&input("noisy")?, &input("timesteps")?, &slots.conditioning);
        model.backward(&prediction.mse_loss(&input("target")?, Reduction::Mean), Mixed::FULL);
        let moments = autoencoder.encode_moments(&input("images")?);
        let decoded = autoencoder.decode(&input("latents")?);
        (moments.square().mean(kind) + decoded.square().mean(kind)).backward();
        let outputs = [
            ("backbone/features", features),
            ("slot_attention/slots", slots.slots),
            ("slot_attention/attention", slots.attention),
            ("slot_attention/conditioning", slots.conditioning),
            ("unet/prediction", prediction),
            ("autoencoder/moments", moments),
            ("autoencoder/decoded", decoded),
        ];
        Ok(outputs.into_iter().map(|(name, tensor)| (format!("output/{name}"), tensor)).collect())
    }
}

/// Takes steps as training takes them, always on the same images. Returns all random numbers in them, and by how much each parameter has
/// changed.
fn train(model: LatentSlotDiffusion, config: &Config, inputs: &BTreeMap<String, Tensor>) -> Result<(Named, Named)> {
    let column = |name: &str| inputs.get(name).map(Tensor::shallow_clone).with_context(|| format!("no {name}"));
    let (source, mut draws) = (NoiseRecipe::new(config), Vec::new());
    let images = column("pixels")?;
    let rows = 0..images.size()[0] as usize;
    let mut batch = Batch { step: 0, images, moments: column("moments")?, noise: source.draw(0, &rows, 0) };
    // In f32, as they came from their files: the largest networks just fit into memory.
    let before = |module: &Module| named(module, "change", |tensor| tensor.to_kind(Kind::Float)).collect::<Vec<_>>();
    let before: Vec<_> = model.modules.iter().flat_map(before).collect();
    let mut state = TrainingState::new(model, config)?;
    let mut config = config.clone();
    config.train.global_batch = rows.len();
    let recipe = StepRecipe::new(&config, 1.0, Device::Cpu);
    let reducer = Reducer::new(&state.parameters, &Communicator::alone(Arc::default()), &config.train.reduction)?;
    for step in 0..STEPS {
        (batch.step, batch.noise) = (step, source.draw(step, &rows, 0));
        recipe.run(&mut state, &batch, Wishes::default(), &reducer, &mut Laps::default(), || ())?;
        let mut note = |name: &str, tensor: &Tensor| draws.push((format!("{step}/{name}"), tensor.shallow_clone()));
        note("posterior_noise", &batch.noise.posterior);
        note("noise", &batch.noise.diffusion);
        note("slot_noise", &batch.noise.slots);
        note("timesteps", &batch.noise.timesteps);
    }
    let after = state.model.modules.iter().flat_map(|module| named(module, "change", Tensor::detach));
    let changes = after.zip(before).map(|((name, mut tensor), (_, before))| (name, tensor.g_sub_(&before)));
    Ok((draws, changes.collect()))
}

/// A tensor of each of a module's trained variables, as `WHAT/MODULE/NAME`.
fn named<'a>(module: &'a Module, what: &'a str, of: fn(&Tensor) -> Tensor) -> impl Iterator<Item = (String, Tensor)> + 'a {
    let trainable = module.variables.iter().filter(|variable| variable.trainable);
    trainable.map(move |variable| (format!("{what}/{}/{}", module.name, variable.name), of(&variable.tensor)))
}

fn write(folder: &Path, name: &str, tensors: Named) -> Result<()> {
    let tensors: Named = tensors.into_iter().map(|(name, tensor)| (name, tensor.detach().contiguous())).collect();
    Ok(Tensor::write_safetensors(&tensors, folder.join(format!("{name}.safetensors")))?)
}
