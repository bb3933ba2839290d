//! The networks against the official sizes, and what training and loading rely on.

use common::config::{AutoencoderConfig, Config, PositionEmbedding, Precision, SlotAttentionConfig, SlotAttentionStart, load};
use tch::{Device, Kind};

use super::weights::{Differences, WeightsError, from_safetensors, to_safetensors};
use super::*;

/// The published experiment, with the autoencoder of Stable Diffusion.
fn movi_e() -> Config {
    load::from_str(include_str!("../../../configs/movi-e.toml"), "movi-e.toml", &[]).unwrap()
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

/// Counts only: `tests/peers/parity.py --shapes` compares every name and shape with those of diffusers.
#[test]
fn movi_e_has_as_many_tensors_and_parameters_as_the_official_networks() {
    let config = movi_e();
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, Device::Cpu);
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Unset, Device::Cpu);
    let modules = model.modules.iter().chain([&autoencoder.module]);
    let counts: Vec<_> = modules.map(|module| (module.variables.len(), trainable(module))).collect();
    assert_eq!(counts, [(194, 42_571_840), (32, 521_472), (782, 305_588_932), (248, 83_653_863)]);
}

/// Two images, initial slots' noise and latents.
fn inputs(model: &LatentSlotDiffusion, sizes: Sizes) -> [Tensor; 3] {
    let options = (Kind::Float, Device::Cpu);
    let [slots, slot_size] = model.slot_attention.slots_shape();
    let latents = Tensor::randn([2, sizes.latent_channels, sizes.latent_side, sizes.latent_side], options);
    [images(2, sizes.resolution), Tensor::randn([2, slots, slot_size], options), latents]
}

/// The loss of a prediction from these inputs.
fn loss(model: &LatentSlotDiffusion, [images, noise, latents]: &[Tensor; 3]) -> Tensor {
    let features = model.backbone.forward(images);
    let [slots, _] = model.slot_attention.slots_shape();
    let found = model.slot_attention.forward(&features, &model.slot_attention.initial_slots(noise));
    assert_eq!(found.attention.size()[..2], [2, slots]);
    let shares = found.attention.sum_dim_intlist([1].as_slice(), false, Kind::Float);
    assert!(shares.allclose(&shares.ones_like(), 0.0, 1e-5, false), "the shares of the slots in a token sum to 1");
    let prediction = model.unet.forward(latents, &Tensor::from_slice(&[3_i64, 700]), &found.conditioning);
    assert_eq!(prediction.size(), latents.size());
    prediction.mse_loss(&latents.to_kind(prediction.kind()), tch::Reduction::Mean)
}

const FULL: Mixed = Mixed::FULL;

/// Goes on in f64, where gradients that are zero are zero.
fn in_f64(model: LatentSlotDiffusion) -> LatentSlotDiffusion {
    for variable in model.modules.iter().flat_map(|module| &module.variables) {
        tch::no_grad(|| variable.tensor.shallow_clone().set_data(&variable.tensor.to_kind(Kind::Double)));
    }
    model
}

/// Name and gradient of every parameter.
fn gradients(model: &LatentSlotDiffusion) -> Vec<(String, Tensor)> {
    let of_module = |module: &Module| {
        let trainable = module.variables.iter().filter(|variable| variable.trainable);
        trainable.map(|variable| (format!("{}.{}", module.name, variable.name), variable.tensor.grad())).collect::<Vec<_>>()
    };
    model.modules.iter().flat_map(of_module).collect()
}

#[test]
fn every_parameter_learns_from_the_denoising_loss() {
    let (model, sizes) = small_model(1);
    model.backward(&loss(&model, &inputs(&model, sizes)), FULL);
    for (name, gradient) in gradients(&model) {
        assert!(gradient.defined(), "{name} has no gradient");
        assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{name}");
    }
}

#[test]
fn gradient_checkpointing_changes_no_gradient() {
    let (plain, sizes) = small_model(1);
    let plain = in_f64(plain);
    let mut config = quickstart().model;
    config.unet.gradient_checkpointing = true;
    let saving = in_f64(LatentSlotDiffusion::new(&config, sizes, Initial::Seed(1), Device::Cpu));
    let inputs = inputs(&plain, sizes);
    for passes in 1..=2 {
        for model in [&plain, &saving] {
            model.backward(&loss(model, &inputs), FULL);
        }
        for ((name, expected), (_, found)) in gradients(&plain).into_iter().zip(gradients(&saving)) {
            assert!(found.defined(), "{name} has no gradient");
            let (difference, largest) = ((&found - &expected).abs().max(), expected.abs().max());
            let (difference, largest) = (difference.double_value(&[]), largest.double_value(&[]));
            assert!(difference <= 1e-12 * largest + 1e-18, "{name} after {passes} passes: {difference} of {largest}");
        }
    }
    let _guard = tch::no_grad_guard();
    assert!(!loss(&saving, &inputs).requires_grad());
}

/// The second forward pass of gradient checkpointing has to round as the first one did.
#[test]
fn bf16_gradients_are_near_those_of_f32_with_and_without_checkpointing() {
    let mixed = Mixed::new(Precision::Bf16, Device::Cpu);
    let (full, sizes) = small_model(1);
    let inputs = inputs(&full, sizes);
    full.backward(&loss(&full, &inputs), FULL);
    let distance = |model: &LatentSlotDiffusion, other: &LatentSlotDiffusion| {
        let all = |model| Tensor::cat(&gradients(model).iter().map(|(_, gradient)| gradient.flatten(0, -1)).collect::<Vec<_>>(), 0);
        let (found, expected) = (all(model), all(other));
        ((found - &expected).norm() / expected.norm()).double_value(&[])
    };
    let rounded = [false, true].map(|gradient_checkpointing| {
        let mut config = quickstart().model;
        config.unet.gradient_checkpointing = gradient_checkpointing;
        let model = LatentSlotDiffusion::new(&config, sizes, Initial::Seed(1), Device::Cpu);
        model.backward(&mixed.run(|| loss(&model, &inputs)).to_kind(Kind::Float), mixed);
        assert!(gradients(&model).iter().all(|(_, gradient)| gradient.kind() == Kind::Float), "master weights are f32");
        model
    });
    let [plain, checkpointed] = [&rounded[0], &rounded[1]].map(|model| distance(model, &full));
    assert!(plain > 1e-4 && plain < 0.05 && checkpointed < 0.05, "{plain}, {checkpointed} with checkpointing");
    let twice = distance(&rounded[1], &rounded[0]);
    assert!(twice < plain / 2.0, "{twice} between both, {plain} from f32");
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
