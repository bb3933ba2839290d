//! Where images are looked at and painted: the model with everything that it takes to perform one edit.

use super::sheet::{Figures, Sheet};
use crate::concepts::{background, mixed, shares, without};
use crate::data::LabelledImages;
use crate::evaluation::{Picture, captioned, numbered};
use crate::inference::{Decoder, enlarge, find_slots, segment, to_vec};
use crate::jobs::BadInput;
use crate::model::LatentSlotDiffusion;
use crate::training::random::Draws;
use anyhow::Result;
use common::config::{Edit, EditImage, EditTask};
use image::ImageReader;
use std::collections::BTreeMap;
use tch::{Device, Tensor};

/// The model and the images.
pub(super) struct Studio {
    pub(super) model: LatentSlotDiffusion,
    pub(super) decoder: Decoder,
    pub(super) source: LabelledImages,
    /// The image files, u8 [1, H, W, 3].
    pub(super) files: BTreeMap<String, Tensor>,
    pub(super) draws: Draws,
    pub(super) device: Device,
}

/// An image and its slots.
struct Seen {
    picture: Picture,
    /// The row under whose number noise is drawn; a file is the first of its own.
    row: usize,
    /// The slot of every pixel.
    labels: Vec<u8>,
    /// The share of every slot in every pixel.
    attention: Vec<Vec<f32>>,
    /// Share of the pixels that each slot wins.
    pixels: Vec<f32>,
    /// [1, K, D].
    conditioning: Tensor,
}

impl Seen {
    /// The image where any of these slots attends, paper elsewhere.
    fn cut_out(&self, slots: &[usize]) -> Picture {
        let weight = |pixel: usize| slots.iter().map(|slot| self.attention[*slot][pixel]).sum();
        self.picture.cut_out(&(0..self.labels.len()).map(weight).collect::<Vec<f32>>())
    }

    /// Mean change of a channel from one picture to another, within these slots and outside; 0 where there are no pixels.
    fn change(&self, slots: &[usize], from: &Picture, to: &Picture) -> [f32; 2] {
        let (mut sums, mut counts) = ([0_u64; 2], [0_u64; 2]);
        for ((from, to), label) in from.rgb().chunks_exact(3).zip(to.rgb().chunks_exact(3)).zip(&self.labels) {
            let outside = usize::from(!slots.contains(&usize::from(*label)));
            sums[outside] += from.iter().zip(to).map(|(from, to)| u64::from(from.abs_diff(*to))).sum::<u64>();
            counts[outside] += 3;
        }
        [0, 1].map(|part| sums[part] as f32 / counts[part].max(1) as f32)
    }
}

impl Studio {
    /// Does what one task asks for.
    pub(super) fn perform(&self, task: &EditTask) -> Result<Sheet> {
        let seen = self.see(&task.image)?;
        let repainted = self.paint(&seen.conditioning, seen.row)?;
        let caption = if task.edit == Edit::Show { task.image.to_string() } else { task.name.clone() };
        let side = self.source.side();
        let mut tiles = vec![captioned(&seen.picture, &caption), numbered(side, &seen.labels)?, repainted.clone()];
        let mut figures = Figures { pixels: seen.pixels.clone(), slot: 0, with_slot: 0, changes: Vec::new() };
        let (slots, edited) = match &task.edit {
            Edit::Show => {
                tiles.extend((0..seen.pixels.len()).map(|slot| seen.cut_out(&[slot])));
                return Ok(Sheet { tiles, figures });
            }
            Edit::Remove(slots) => {
                tiles.extend([seen.cut_out(slots), Picture::blank(side), Picture::blank(side)]);
                (slots.clone(), vec![without(&seen.conditioning, slots)])
            }
            Edit::Mix { slot, with, with_slot, shares } => {
                let other = self.see(with)?;
                let slot = slot.unwrap_or_else(|| background(&seen.pixels));
                let with_slot = with_slot.unwrap_or_else(|| background(&other.pixels));
                (figures.slot, figures.with_slot) = (slot, with_slot);
                tiles.extend([seen.cut_out(&[slot]), other.picture.clone(), other.cut_out(&[with_slot])]);
                let incoming = other.conditioning.select(1, with_slot as i64);
                (vec![slot], shares.iter().map(|share| mixed(&seen.conditioning, slot, &incoming, *share)).collect())
            }
        };
        for conditioning in edited {
            let picture = self.paint(&conditioning, seen.row)?;
            figures.changes.push(seen.change(&slots, &repainted, &picture));
            tiles.push(picture);
        }
        Ok(Sheet { tiles, figures })
    }

    /// Finds the slots of an image.
    fn see(&self, image: &EditImage) -> Result<Seen> {
        let (row, pixels) = match image {
            EditImage::Row(row) => (*row as usize, self.source.images(&[*row])?),
            EditImage::File(file) => {
                let absent = || BadInput::message(format!("{file} is not among the pictures of the recipes"));
                (0, self.files.get(file).ok_or_else(absent)?.shallow_clone())
            }
        };
        let found = find_slots(&self.model, self.draws, &pixels, row..row + 1, self.device);
        let attention = enlarge(&found.attention, self.source.side());
        let labels = segment(&attention)?.pop().unwrap_or_default();
        let attention: Vec<Vec<f32>> = attention.get(0).unbind(0).iter().map(to_vec).collect::<Result<_, _>>()?;
        let pixels_of_slots = shares(&labels, attention.len());
        let picture = Picture::from_image(&pixels.get(0))?;
        Ok(Seen { picture, row, labels, attention, pixels: pixels_of_slots, conditioning: found.conditioning })
    }

    /// Conditioning [1, K, D], any K -> a picture, from the noise of image number `row`.
    fn paint(&self, conditioning: &Tensor, row: usize) -> Result<Picture> {
        Ok(Picture::from_image(&self.decoder.decode(&self.model, conditioning, row..row + 1).get(0))?)
    }
}

/// Reads the image files of all tasks.
pub(super) fn open_files(tasks: &[EditTask], side: usize) -> Result<BTreeMap<String, Tensor>> {
    let mut files = BTreeMap::new();
    for task in tasks {
        for image in task.images() {
            if let EditImage::File(file) = image
                && !files.contains_key(file)
            {
                files.insert(file.clone(), open(&task.key, file, side)?);
            }
        }
    }
    Ok(files)
}

/// An image file as u8 [1, side, side, 3].
fn open(key: &str, file: &str, side: usize) -> Result<Tensor> {
    let refused = |reason: String| BadInput::message(format!("{key}: {file}: {reason}"));
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format).map_err(|error| refused(error.to_string()))?;
    let image = reader.decode().map_err(|error| refused(format!("not a readable image: {error}")))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if (width, height) != (side, side) {
        let reason = format!(
            "the picture has {width}x{height} pixels; crop and scale it to {side}x{side}, the data.resolution of the model"
        );
        return Err(refused(reason).into());
    }
    Ok(Tensor::from_slice(&image.into_raw()).view([1, side as i64, side as i64, 3]))
}
