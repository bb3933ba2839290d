//! A sheet of held-out images: what they show, what the slots find, and what is painted from the slots.

use crate::evaluation::{Picture, PictureError, grid, in_colours_of_truth};
use crate::inference::to_vec;
use tch::{Kind, Tensor};

/// What a sheet shows, before it is drawn. Drawing is no work for the training thread.
pub struct Sheet {
    /// u8 [P, H, W, 3].
    images: Tensor,
    masks: Option<Vec<Vec<u8>>>,
    /// Slot, colour painted again, colour composed, f32 [P, H, W, 7].
    painted: Tensor,
}

impl Sheet {
    pub(super) fn new(images: Tensor, masks: Option<Vec<Vec<u8>>>, painted: Tensor) -> Self {
        Self { images, masks, painted: painted.to_device(tch::Device::Cpu).to_kind(Kind::Uint8) }
    }

    /// One row per image: the image, its true objects if they are known, the slots, the image painted again, and a composed scene.
    ///
    /// # Errors
    /// Images that are not square.
    pub fn draw(&self) -> Result<Picture, PictureError> {
        let side = self.images.size()[1] as usize;
        let part = |row: usize, from: i64, length: i64| self.painted.get(row as i64).narrow(2, from, length);
        let rows = (0..self.images.size()[0] as usize).map(|row| {
            let (slots, truth) = (to_vec::<u8>(&part(row, 0, 1))?, self.masks.as_ref().map(|masks| &masks[row]));
            let mut tiles = vec![Picture::from_image(&self.images.get(row as i64))?];
            tiles.extend(truth.map(|truth| Picture::labels(side, truth.iter().map(|&label| usize::from(label)))).transpose()?);
            tiles.push(match truth {
                Some(truth) => Picture::labels(side, in_colours_of_truth(truth, &slots))?,
                None => Picture::slots(side, &slots)?,
            });
            tiles.extend([Picture::from_image(&part(row, 1, 3))?, Picture::from_image(&part(row, 4, 3))?]);
            Ok(tiles)
        });
        let titles =
            ["image"].into_iter().chain(self.masks.is_some().then_some("truth")).chain(["slots found", "decoded", "composed"]);
        Ok(grid(&titles.map(str::to_owned).collect::<Vec<_>>(), &rows.collect::<Result<Vec<_>, PictureError>>()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn every_tile_is_in_its_column() {
        let full = |value: i64, channels: i64| Tensor::full([2, 128, 128, channels], value, (Kind::Float, Device::Cpu));
        let painted = Tensor::cat(&[full(1, 1), full(50, 3), full(90, 3)], 3);
        let images = full(200, 3).to_kind(Kind::Uint8);
        for masks in [None, Some(vec![vec![0; 128 * 128]; 2])] {
            let columns = 4 + usize::from(masks.is_some());
            let picture = Sheet::new(images.shallow_clone(), masks, painted.shallow_clone()).draw().unwrap();
            assert_eq!(picture.width(), 4 + columns * 132);
            // In the middle of the second row.
            let row = picture.height() - 64;
            let pixel = |column: usize| picture.rgb()[(row * picture.width() + 4 + column * 132 + 64) * 3];
            assert_eq!([pixel(0), pixel(columns - 2), pixel(columns - 1)], [200, 50, 90]);
        }
    }
}
