//! Pictures painted by several threads: the same as by one, whatever they are painted together with.

use super::Decoder;
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use common::config::load;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::{Device, Kind, Tensor};

/// Numbers of the pictures, in no order.
const ROWS: [usize; 5] = [7, 2, 9, 4, 0];

struct Lab {
    model: LatentSlotDiffusion,
    decoder: Decoder,
    /// [5, 2, 8]
    conditioning: Tensor,
}

impl Lab {
    fn new(sampler: &str) -> Self {
        let steps = ["evaluate.sampling_steps=3", "train.evaluation.sampling_steps=3", "diffusion.timesteps=6"].map(str::to_owned);
        let overrides = [&[format!("evaluate.sampler={sampler}")][..], &steps].concat();
        let config = load::from_str(include_str!("../training/tests.toml"), "tests.toml", &overrides).unwrap();
        let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Seed(1), Device::Cpu);
        let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(2), Device::Cpu);
        let conditioning = Tensor::arange(80, (Kind::Float, Device::Cpu)).sin().view([5, 2, 8]);
        Self { model, decoder: Decoder::new(&config, autoencoder, Device::Cpu), conditioning }
    }

    /// The pictures, painted by so many threads and so many at a time.
    fn paint(&self, threads: i32, batch: usize) -> Vec<i16> {
        let (places, rows) = ([0, 1, 2, 3, 4], ROWS.chunks(batch));
        let parts = places.chunks(batch).zip(rows).map(|(places, rows)| {
            let conditioning = self.conditioning.index_select(0, &Tensor::from_slice(places));
            with_threads(threads, || self.decoder.decode(&self.model, &conditioning, rows.iter().copied()))
        });
        let pictures = Tensor::cat(&parts.collect::<Vec<_>>(), 0);
        assert_eq!((pictures.size(), pictures.kind()), (vec![5, 16, 16, 3], Kind::Uint8));
        Vec::try_from(pictures.to_kind(Kind::Int16).flatten(0, -1)).unwrap()
    }
}

/// What comes of `work` where libtorch has `threads` threads, and still has them afterwards.
fn with_threads<T>(threads: i32, work: impl FnOnce() -> T) -> T {
    let before = tch::get_num_threads();
    tch::set_num_threads(threads);
    let done = work();
    assert_eq!(tch::get_num_threads(), threads);
    tch::set_num_threads(before);
    done
}

#[test]
fn pictures_depend_neither_on_threads_nor_on_what_is_painted_with_them() {
    for sampler in ["ddim", "dpm-solver++", "ddpm"] {
        let lab = Lab::new(sampler);
        let expected = lab.paint(1, 5);
        let [first, second] = [0, 1].map(|picture| &expected[picture * 768..][..768]);
        assert!(first != second, "{sampler}: one picture is all");
        for (threads, batch) in [(1, 1), (1, 2), (2, 5), (3, 5), (2, 3), (3, 2), (8, 5)] {
            let found = lab.paint(threads, batch);
            // Batches differ in size, and with them the rounding of convolutions: a channel may fall to its neighbour.
            let apart: Vec<u16> = expected.iter().zip(&found).map(|(a, b)| a.abs_diff(*b)).filter(|apart| *apart > 0).collect();
            assert!(apart.len() < 20 && apart.iter().all(|apart| *apart == 1), "{sampler}, {threads} by {batch}: {apart:?}");
        }
    }
}

#[test]
fn what_fails_in_one_of_the_threads_fails_for_the_caller() {
    let lab = Lab::new("ddim");
    // Slots of a width that the network does not know.
    let conditioning = Tensor::zeros([5, 2, 9], (Kind::Float, Device::Cpu));
    let paint = || lab.decoder.decode(&lab.model, &conditioning, ROWS);
    let before = tch::get_num_threads();
    tch::set_num_threads(3);
    let painted = catch_unwind(AssertUnwindSafe(paint));
    tch::set_num_threads(before);
    let said = *painted.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("shapes cannot be multiplied"), "{said}");
}
