//! Pictures from slots: the first held-out images painted again, and scenes composed of the slots of all of these.

use super::sheet::Sheet;
use crate::collectives::Solo;
use crate::concepts::{Clustering, Points};
use crate::data::HeldOutSplit;
use crate::inference::{Decoder, enlarge, find_slots, segment};
use crate::jobs::JobContext;
use crate::model::{Autoencoder, LatentSlotDiffusion};
use crate::training::random::Draws;
use common::config::Config;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// What is known of a pixel once it is painted: its slot, its colour in the image painted again, and that in the composed scene.
pub(super) const CHANNELS: i64 = 7;
/// Starts of K-means.
const STARTS: usize = 4;

/// Paints this worker's pictures.
pub(super) struct Painter {
    decoder: Decoder,
    /// The images of all workers' pictures, u8 [P, H, W, 3]: the slots of all of them make up the composed scenes.
    images: Tensor,
    masks: Option<Vec<Vec<u8>>>,
    /// The pictures that are this worker's.
    mine: Range<usize>,
    /// Pictures at a time.
    batch: usize,
    seed: u64,
    leads: bool,
    device: Device,
}

impl Painter {
    /// Reads the images and the autoencoder; `mine` are this worker's pictures.
    ///
    /// # Errors
    /// Images or an autoencoder that are missing or damaged.
    pub(super) fn open(context: &JobContext, split: &HeldOutSplit, mine: Range<usize>) -> anyhow::Result<Self> {
        let mut config: Config = context.config.clone();
        config.evaluate.sampling_steps = config.train.evaluation.sampling_steps;
        let autoencoder = Autoencoder::load(&config.autoencoder, context.device, &context.runtime)?;
        let all = split.read(&(0..config.train.evaluation.pictures.min(split.count())))?;
        Ok(Self {
            decoder: Decoder::new(&config, autoencoder, context.device),
            images: all.images,
            masks: all.masks,
            mine,
            batch: config.evaluate.batch,
            seed: config.run.seed,
            leads: context.place.is_leader(),
            device: context.device,
        })
    }

    /// What is known of the pixels of all pictures, f32 [P, H, W, [`CHANNELS`]]; zero where they are not this worker's.
    ///
    /// # Errors
    /// What is on the device cannot be read.
    pub(super) fn paint(&self, model: &LatentSlotDiffusion) -> anyhow::Result<Tensor> {
        let size = self.images.size();
        let (count, side) = (size[0], size[1]);
        // All workers find all slots: that is little beside the painting, and so all know the same ones.
        let found = find_slots(model, Draws::new(self.seed), &self.images, 0..count as usize, self.device);
        let composed = self.compose(&found.slots, &found.conditioning)?;
        let painted = Tensor::zeros([count, side, side, CHANNELS], (Kind::Float, Device::Cpu));
        for start in self.mine.clone().step_by(self.batch) {
            let rows = start..self.mine.end.min(start + self.batch);
            let of = |tensor: &Tensor| tensor.narrow(0, rows.start as i64, rows.len() as i64);
            let slots: Vec<u8> = segment(&enlarge(&of(&found.attention), side as usize))?.concat();
            let slots = Tensor::from_slice(&slots).view([rows.len() as i64, side, side, 1]);
            let decode = |conditioning: &Tensor| self.decoder.decode(model, &of(conditioning), rows.clone());
            let pixels = Tensor::cat(&[slots, decode(&found.conditioning), decode(&composed)], 3);
            of(&painted).copy_(&pixels);
        }
        Ok(painted)
    }

    /// Conditioning [P, K, out] of scenes with one slot [K, D] of each of K concepts among the slots [P, K, D] of all images (paper,
    /// section 3.3).
    fn compose(&self, slots: &Tensor, conditioning: &Tensor) -> anyhow::Result<Tensor> {
        let size = conditioning.size();
        let (count, per_image) = (size[0], size[1]);
        let slots = slots.flatten(0, 1).to_device(Device::Cpu);
        let points = Points { rows: &slots, first: 0, total: slots.size()[0].unsigned_abs(), device: Device::Cpu };
        let sorting = Clustering { clusters: per_image as usize, restarts: STARTS, batch: 0, seed: self.seed };
        let nearest = sorting.run(&points, &mut Solo, |_| ())?.nearest;
        let of_concept = |concept| (0_i64..).zip(&nearest).filter(move |(_, found)| **found == concept).map(|(member, _)| member);
        let concepts: Vec<Vec<i64>> = (0..per_image as usize).map(|concept| of_concept(concept).collect()).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let scenes = (0..count).flat_map(|_| &concepts);
        let members: Vec<i64> = scenes.map(|members| members[random.random_range(0..members.len())]).collect();
        let members = Tensor::from_slice(&members).to_device(conditioning.device());
        Ok(conditioning.flatten(0, 1).index_select(0, &members).view([count, per_image, -1]))
    }

    /// The sheet of what all workers have painted; on rank 0, for whoever draws it.
    pub(super) fn sheet(&self, painted: Tensor) -> Option<Sheet> {
        self.leads.then(|| Sheet::new(self.images.shallow_clone(), self.masks.clone(), painted))
    }
}
