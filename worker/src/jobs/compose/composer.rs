//! From what a scene is made of to its picture, for any number of scenes at a time.

use crate::concepts::{Library, Member};
use crate::data::LabelledImages;
use crate::evaluation::Picture;
use crate::inference::Decoder;
use crate::jobs::JobContext;
use crate::jobs::cutting::Cutter;
use crate::model::LatentSlotDiffusion;
use anyhow::{Context, Result};
use common::config::ComposeTask;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use tch::{Device, Tensor};

/// Where a slot of a scene comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The library.
    Member { concept: usize, member: Member },
    /// An image of the split that was named.
    Named { image: u64, slot: usize },
}

/// What a scene is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) origins: Vec<Origin>,
    /// Number of the noise that it is painted from.
    pub(super) noise: usize,
}

impl Scene {
    /// Draws the members that a task asks for.
    pub(super) fn of(task: &ComposeTask, library: Option<&Library>, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(task.seed);
        let mut origins: Vec<Origin> = task.slots.iter().map(|&(image, slot)| Origin::Named { image, slot }).collect();
        for &concept in &task.concepts {
            let member = library.and_then(|library| library.draw(concept, &mut random));
            let member = member.with_context(|| format!("{}: the library has no concept {}", task.key, concept + 1))?;
            origins.push(Origin::Member { concept, member });
        }
        Ok(Self { origins, noise: task.seed as usize })
    }
}

/// Paints one scene for each of `seeds` of a random member of every concept of the library, u8 [B, H, W, 3] on the CPU: what `compose` makes
/// of the same seeds where nothing is asked for.
pub(super) fn paint_at_random(
    library: &Library,
    (model, decoder, device): (&LatentSlotDiffusion, &Decoder, Device),
    run_seed: u64,
    seeds: Range<u64>,
) -> Result<Tensor> {
    let mut conditioning = Vec::new();
    for seed in seeds.clone() {
        let mut random = ChaCha8Rng::seed_from_u64(run_seed);
        random.set_stream(seed);
        let members = (0..library.info.made_from.concepts).filter_map(|concept| library.draw(concept, &mut random));
        conditioning.push(library.conditioning(&members.collect::<Vec<_>>())?);
    }
    let conditioning = Tensor::stack(&conditioning, 0).to_device(device);
    Ok(decoder.decode(model, &conditioning, seeds.map(|seed| seed as usize)))
}

/// Everything that it takes to paint scenes.
pub(super) struct Composer<'a> {
    pub(super) context: &'a JobContext,
    pub(super) model: &'a LatentSlotDiffusion,
    pub(super) decoder: &'a Decoder,
    pub(super) library: Option<&'a Library>,
    /// The split of the library.
    pub(super) train: &'a LabelledImages,
    /// The split whose slots are named.
    pub(super) named: &'a LabelledImages,
}

impl Composer<'_> {
    /// The pictures of scenes, u8 [B, H, W, 3] on the CPU. Those with equally many slots are painted together.
    pub(super) fn paint(&self, scenes: &[Scene]) -> Result<Tensor> {
        let mut pictures = Vec::new();
        for alike in scenes.chunk_by(|a, b| a.origins.len() == b.origins.len()) {
            let conditioning = alike.iter().map(|scene| self.conditioning(scene)).collect::<Result<Vec<_>>>()?;
            let conditioning = Tensor::stack(&conditioning, 0).to_device(self.context.device);
            pictures.push(self.decoder.decode(self.model, &conditioning, alike.iter().map(|scene| scene.noise)));
        }
        Ok(Tensor::cat(&pictures, 0))
    }

    /// What the denoiser is to see, [K, out] on the CPU.
    fn conditioning(&self, scene: &Scene) -> Result<Tensor> {
        let mut slots = Vec::new();
        for origin in &scene.origins {
            slots.push(match *origin {
                Origin::Member { member, .. } => {
                    let library = self.library.context("a member without its library")?;
                    library.conditioning(&[member])?.get(0)
                }
                Origin::Named { image, slot } => {
                    let found = self.cutter().find(self.named, image)?.conditioning;
                    found.get(slot as i64).to_device(Device::Cpu)
                }
            });
        }
        Ok(Tensor::stack(&slots, 0))
    }

    /// What the slot sees of the image that it comes from.
    pub(super) fn cut(&self, origin: &Origin) -> Result<Picture> {
        match *origin {
            Origin::Member { member, .. } => self.cutter().cut(self.train, member.image, member.slot),
            Origin::Named { image, slot } => self.cutter().cut(self.named, image, slot),
        }
    }

    fn cutter(&self) -> Cutter<'_> {
        Cutter { context: self.context, model: self.model }
    }
}
