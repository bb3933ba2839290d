//! Slots as pictures: what each sees of the image in which it was found.

use super::JobContext;
use crate::data::LabelledImages;
use crate::evaluation::Picture;
use crate::inference::{enlarge, find_slots, to_vec};
use crate::model::LatentSlotDiffusion;
use crate::training::random::Draws;
use anyhow::Result;
use tch::Tensor;

/// Finds slots of single images once more.
pub(super) struct Cutter<'a> {
    pub(super) context: &'a JobContext,
    pub(super) model: &'a LatentSlotDiffusion,
}

/// An image and its slots.
pub(super) struct Found {
    picture: Picture,
    /// [K, side, side]
    attention: Tensor,
    /// [K, out]
    pub(super) conditioning: Tensor,
}

impl Cutter<'_> {
    /// The slots of an image of `source`.
    pub(super) fn find(&self, source: &LabelledImages, image: u64) -> Result<Found> {
        let images = source.images(&[image])?;
        let draws = Draws::new(self.context.config.run.seed);
        let found = find_slots(self.model, draws, &images, image as usize..image as usize + 1, self.context.device);
        let attention = enlarge(&found.attention, source.side()).get(0);
        Ok(Found { picture: Picture::from_image(&images.get(0))?, attention, conditioning: found.conditioning.get(0) })
    }

    /// What slot `slot` of an image of `source` sees.
    pub(super) fn cut(&self, source: &LabelledImages, image: u64, slot: usize) -> Result<Picture> {
        self.find(source, image)?.cut(slot)
    }
}

impl Found {
    /// The image where the slot attends, paper elsewhere.
    pub(super) fn cut(&self, slot: usize) -> Result<Picture> {
        Ok(self.picture.cut_out(&to_vec(&self.attention.get(slot as i64))?))
    }
}
