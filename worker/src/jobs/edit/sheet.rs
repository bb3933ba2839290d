//! What comes of one edit: a row of a picture grid, and figures; and how it gets from the worker that made it to all others.

use crate::collectives::{Collective, Communicator};
use crate::evaluation::{Picture, tile_side};
use crate::inference::to_vec;
use anyhow::Result;
use common::config::{Edit, EditTask};
use tch::{Device, Kind, Tensor};

/// Tiles before those that are edited, or before those of the slots: the image with its name, its numbered slots, the image repainted.
const SEEN_TILES: usize = 3;
/// Then, where something is edited: the slots that are edited, the other image, its slot.
const EDIT_TILES: usize = 3;

/// The result of one edit.
#[derive(Debug)]
pub(super) struct Sheet {
    /// Row of the grid.
    pub(super) tiles: Vec<Picture>,
    /// What can be counted.
    pub(super) figures: Figures,
}

/// Figures of one edit.
#[derive(Debug)]
pub(super) struct Figures {
    /// Share of the pixels of each slot.
    pub(super) pixels: Vec<f32>,
    /// The slot that was edited, from 0, where it was one.
    pub(super) slot: usize,
    /// The slot of the other image.
    pub(super) with_slot: usize,
    /// For each edited picture: mean change of a colour channel (of 255) against the repainted image, within the edited slots and outside.
    pub(super) changes: Vec<[f32; 2]>,
}

impl Sheet {
    /// The edited pictures.
    pub(super) fn edited(&self, task: &EditTask) -> &[Picture] {
        &self.tiles[self.tiles.len().saturating_sub(task.edit.pictures())..]
    }

    /// All bytes of the tiles, then the figures.
    fn to_values(&self) -> Vec<f32> {
        let mut values: Vec<f32> = self.tiles.iter().flat_map(|tile| tile.rgb()).map(|byte| f32::from(*byte)).collect();
        values.extend(&self.figures.pixels);
        values.extend([self.figures.slot as f32, self.figures.with_slot as f32]);
        values.extend(self.figures.changes.iter().flatten());
        values
    }
}

/// Column titles of a grid of edits, or of one that `shows` all slots.
pub(super) fn titles(shows: bool, slots: usize) -> Vec<String> {
    let seen = ["image", "slots", "repainted"].map(str::to_owned);
    if shows {
        seen.into_iter().chain((1..=slots).map(|slot| format!("slot {slot}"))).collect()
    } else {
        seen.into_iter().chain(["edited slots", "other image", "other slot", "edited"].map(str::to_owned)).collect()
    }
}

/// The sizes of a sheet, which follow from the task.
pub(super) struct Layout {
    /// Rows and columns of each tile.
    sides: Vec<usize>,
    slots: usize,
    pictures: usize,
}

impl Layout {
    /// For images of `side` rows and columns.
    pub(super) fn of(task: &EditTask, side: usize, slots: usize) -> Self {
        let more = if task.edit == Edit::Show { slots } else { EDIT_TILES + task.edit.pictures() };
        let mut sides = vec![tile_side(side); 2];
        sides.resize(SEEN_TILES + more, side);
        Self { sides, slots, pictures: task.edit.pictures() }
    }

    /// The sheet that one of the workers has `done`, on all of them.
    pub(super) fn gather(&self, done: Option<Sheet>, collective: &mut Communicator) -> Result<Sheet> {
        let bytes: usize = self.sides.iter().map(|side| side * side * 3).sum();
        let length = bytes + self.slots + 2 + 2 * self.pictures;
        let values = match done {
            Some(sheet) => Tensor::from_slice(&sheet.to_values()),
            None => Tensor::zeros([length as i64], (Kind::Float, Device::Cpu)),
        };
        // All zeros on all workers but one, so the sum gathers.
        collective.all_reduce_sum(&values)?;
        let values: Vec<f32> = to_vec(&values)?;
        let (mut tiles, mut start) = (Vec::new(), 0);
        for &side in &self.sides {
            let rgb = values[start..start + side * side * 3].iter().map(|value| *value as u8).collect();
            tiles.push(Picture::from_rgb(side, side, rgb)?);
            start += side * side * 3;
        }
        let (pixels, rest) = values[bytes..].split_at(self.slots);
        let changes = rest[2..].chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        let figures = Figures { pixels: pixels.to_vec(), slot: rest[0] as usize, with_slot: rest[1] as usize, changes };
        Ok(Sheet { tiles, figures })
    }
}
