//! Single steps on the experiment of [`super::tests`]: who computes them, and in how many parts, decides nothing.
#![allow(clippy::unwrap_used)]

use super::detours::Detours;
use super::laps::Laps;
use super::reduction::Reducer;
use super::step::{StepRecipe, TrainingState, Wishes};
use super::tests::{Lab, message};
use crate::collectives::{Aborter, Collective, CollectiveError, Communicator, InProcess, Solo};
use crate::data::{Batch, Loader, Slice, open_split};
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use common::config::Config;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor};

/// The batch of step 3 of one worker.
fn third_batch(lab: &Lab, config: &Config, slice: Slice) -> Batch {
    let dataset = open_split(lab.runtime.handle(), &config.data, &config.data.latents, "train").unwrap();
    let mut loader = Loader::start(config, "latents", dataset, slice, 3..4, &Detours::default(), lab.runtime.handle()).unwrap();
    let batch = loader.next_batch().unwrap().unwrap();
    assert!(loader.next_batch().unwrap().is_none());
    batch
}

pub(super) fn fresh_state(config: &Config, kind: Kind) -> TrainingState {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(1), Device::Cpu);
    for variable in model.modules.iter().flat_map(|module| &module.variables) {
        tch::no_grad(|| variable.tensor.shallow_clone().set_data(&variable.tensor.to_kind(kind)));
    }
    TrainingState::new(model, config).unwrap()
}

/// Gradients and loss of step 3, as this worker has them after the all-reduce.
fn reduced(lab: &Lab, config: &Config, kind: Kind, backend: impl Collective + 'static) -> Tensor {
    let communicator = Communicator::start(move || Ok(Box::new(backend)), Device::Cpu, Arc::default()).unwrap();
    let (rank, world) = (communicator.rank(), communicator.world());
    let mut state = fresh_state(config, kind);
    let reducer = Reducer::new(&state.parameters, &communicator, &config.train.reduction).unwrap();
    let slice = Slice { global_batch: config.train.global_batch, rank, world };
    let batch = third_batch(lab, config, slice);
    let recipe = StepRecipe::new(config, 1.5, Device::Cpu);
    recipe.run(&mut state, &batch, Wishes { stop: rank == 1, ..Wishes::default() }, &reducer, &mut Laps::default(), || ()).unwrap();
    state.parameters.reduced().copy()
}

/// The same for every worker of a world.
fn reduced_by(world: usize, lab: &Lab, config: &Config, kind: Kind) -> Vec<Tensor> {
    std::thread::scope(|scope| {
        let ends = InProcess::world(world).into_iter();
        let workers: Vec<_> = ends.map(|end| scope.spawn(move || reduced(lab, config, kind, end))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

/// Largest difference, as a share of the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
}

#[test]
fn the_gradients_of_several_workers_are_those_of_one() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_data_set(5, true);
    let options = [
        "data.flip=true",
        "diffusion.snr_gamma=5",
        "diffusion.offset_noise=0.5",
        "train.slot_dropout=0.5",
        // Rows per worker are 4, 3 or 2: parts of unequal size in any case.
        "train.micro_batch=3",
        "train.reduction.first_bucket_mib=0.0002",
        "train.reduction.bucket_mib=0.001",
        "train.global_batch=8",
    ];
    let mut seen = Vec::new();
    for options in [&options[..], &["train.global_batch=8"]] {
        let config = lab.config(&[&["train.clip_norm=0"], options].concat());
        let alone = reduced(&lab, &config, Kind::Double, Solo);
        // Three workers share a batch of 8 unevenly.
        for world in [2, 3, 4] {
            let together = reduced_by(world, &lab, &config, Kind::Double);
            assert_eq!(together[0], together[1], "all workers have the same bits");
            let count = alone.numel() as i64 - 3;
            let stop = together[0].narrow(0, count, 1);
            assert_eq!(stop.double_value(&[0]), 1.0, "the wish of rank 1 to stop has reached rank 0");
            let found = difference(&together[0].narrow(0, 0, count), &alone.narrow(0, 0, count));
            assert!(found <= 1e-12, "{options:?}, {world} workers: {found} of the largest");
        }
        let single = reduced_by(2, &lab, &config, Kind::Float).remove(0).to_kind(Kind::Double);
        let count = alone.numel() as i64 - 3;
        let found = difference(&single.narrow(0, 0, count), &alone.narrow(0, 0, count));
        assert!(found <= 1e-5, "{options:?}, in f32: {found} of the largest");
        seen.push(alone);
    }
    assert!(difference(&seen[0], &seen[1]) > 0.1, "the options have no effect");
}

/// Gradients that travel in bf16 have its 8 bits, and are the same on all workers.
#[test]
fn gradients_rounded_to_bf16_are_close_and_equal_everywhere() {
    let lab = Lab::new();
    let exact = reduced_by(2, &lab, &lab.config(&["train.clip_norm=0"]), Kind::Float).remove(0);
    let config = lab.config(&["train.clip_norm=0", "train.reduction.wire=bf16"]);
    let rounded = reduced_by(2, &lab, &config, Kind::Float);
    assert_eq!(rounded[0], rounded[1]);
    let found = difference(&rounded[0], &exact);
    assert!(found > 0.0 && found < 2.0_f64.powi(-7), "{found} of the largest");
}

/// One worker of two that counts what it would have to send.
struct Counting(Arc<AtomicUsize>);

impl Collective for Counting {
    fn rank(&self) -> usize {
        0
    }
    fn world(&self) -> usize {
        2
    }
    fn all_reduce_sum(&mut self, _tensor: &Tensor) -> Result<(), CollectiveError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn broadcast(&mut self, _tensor: &Tensor, _root: usize) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn aborter(&self) -> Aborter {
        Solo.aborter()
    }
}

/// The reference leaves a micro batch out of its first update, and reduces the gradients of every one of them.
#[test]
fn micro_batches_of_any_size_take_the_same_steps_with_one_all_reduce_each() {
    let lab = Lab::new();
    // Adam divides by the gradients' size, so that where there is none, rounding alone would decide; a large epsilon prevents that.
    let common =
        ["train.reduction.first_bucket_mib=100", "train.global_batch=8", "train.optimizer.epsilon=1e-3", "diffusion.snr_gamma=5"];
    let train = |overrides: &[&str]| {
        let config = lab.config(&[&common, overrides].concat());
        let mut state = fresh_state(&config, Kind::Float);
        let sums = Arc::new(AtomicUsize::new(0));
        let backend = Counting(sums.clone());
        let communicator = Communicator::start(move || Ok(Box::new(backend)), Device::Cpu, Arc::default()).unwrap();
        let reducer = Reducer::new(&state.parameters, &communicator, &config.train.reduction).unwrap();
        let slice = Slice { global_batch: 8, rank: 0, world: 1 };
        let mut batch = third_batch(&lab, &config, slice);
        let recipe = StepRecipe::new(&config, 1.5, Device::Cpu);
        let mut losses = Vec::new();
        for step in 0..3 {
            batch.step = step;
            let outcome = recipe.run(&mut state, &batch, Wishes::default(), &reducer, &mut Laps::default(), || ()).unwrap();
            assert_eq!(outcome.attention.size()[0], 8, "attention of every image");
            losses.push(outcome.loss.double_value(&[]));
        }
        assert_eq!(sums.load(Ordering::Relaxed), 3, "sums in 3 steps, of one bucket each");
        (state.parameters.values().copy(), Tensor::from_slice(&losses))
    };
    let whole = train(&[]);
    for size in ["1", "3", "8"] {
        let parts = train(&[&format!("train.micro_batch={size}")]);
        let (parameters, losses) = (difference(&parts.0, &whole.0), difference(&parts.1, &whole.1));
        assert!(parameters <= 1e-5 && losses <= 1e-5, "micro batches of {size}: parameters {parameters}, losses {losses}");
    }
}

/// Which worker loads a sample, and with how many others, decides nothing; image and latent are mirrored together.
#[test]
fn chance_mirrors_image_and_latent_together_whatever_the_number_of_workers() {
    let lab = Lab::new();
    let config = lab.config(&["data.flip=true", "train.global_batch=24"]);
    let text = message(lab.train(&config, 1));
    assert!(text.contains("data.flip = true needs the column moments_flipped") && text.contains("encode job"), "{text}");

    fs::remove_dir_all(lab.path("latents")).unwrap();
    lab.write_data_set(5, true);
    let whole = |config: &Config, world: usize| {
        let parts = (0..world).map(|rank| third_batch(&lab, config, Slice { global_batch: 24, rank, world })).collect::<Vec<_>>();
        let images: Vec<&Tensor> = parts.iter().map(|part| &part.images).collect();
        let moments: Vec<&Tensor> = parts.iter().map(|part| &part.moments).collect();
        (Tensor::cat(&images, 0), Tensor::cat(&moments, 0))
    };
    let plain = whole(&lab.config(&["train.global_batch=24"]), 1);
    let flipped = whole(&config, 1);
    assert_eq!(whole(&config, 2), flipped);
    let mut mirrored = 0;
    for row in 0..24 {
        let plain = (plain.0.get(row), plain.1.get(row));
        let flipped = (flipped.0.get(row), flipped.1.get(row));
        if flipped != plain {
            mirrored += 1;
            assert_eq!(flipped, (plain.0.flip([1]), plain.1.flip([2])), "row {row}");
        }
    }
    assert!((4..=20).contains(&mirrored), "{mirrored} of 24 are mirrored");
}

/// A dropped image teaches the denoiser only.
#[test]
fn slots_that_are_dropped_get_no_gradient() {
    let lab = Lab::new();
    let config = lab.config(&["train.slot_dropout=0.999999999", "train.clip_norm=0"]);
    let gradients = reduced(&lab, &config, Kind::Float, Solo);
    for (name, range) in fresh_state(&config, Kind::Float).parameters.groups() {
        let largest = gradients.narrow(0, range.start, range.end - range.start).abs().max().double_value(&[]);
        assert_eq!(largest > 0.0, name == "unet", "{name}: {largest}");
    }
}
