//! What the slots see while training: images of the batch beside the segmentation that Slot Attention makes of them.

use crate::evaluation::{Picture, PictureError, grid};
use crate::inference::{enlarge, segment};
use crate::metrics;
use tch::{Kind, Tensor};

/// Rows of the grid.
const ROWS: i64 = 8;

/// A grid of the first images u8 [B, H, W, 3] and, from the attention [B, K, h, w], the slot that each pixel belongs to.
///
/// # Errors
/// A failing encoder, or images that are not square.
pub(super) fn segmentation(step: u64, images: &Tensor, attention: &Tensor) -> Result<metrics::Picture, PictureError> {
    let (count, side) = (ROWS.min(images.size()[0]), images.size()[1] as usize);
    let slots = segment(&enlarge(&attention.narrow(0, 0, count).to_kind(Kind::Float), side))?;
    let row = |(row, slots): (i64, &Vec<u8>)| Ok(vec![Picture::from_image(&images.get(row))?, Picture::slots(side, slots)?]);
    let rows = (0..).zip(&slots).map(row);
    let picture = grid(&["image".to_owned(), "slots".to_owned()], &rows.collect::<Result<Vec<_>, PictureError>>()?);
    let size = [picture.width() as u32, picture.height() as u32];
    Ok(metrics::Picture { step, tag: "segmentation".into(), size, png: picture.to_png()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::colour;
    use tch::Device;

    #[test]
    fn every_pixel_has_the_colour_of_its_strongest_slot() {
        let images = Tensor::full([2, 8, 8, 3], 200, (Kind::Uint8, Device::Cpu));
        // Slot 1 has the left half of the first image, slot 0 everything else.
        let attention = Tensor::zeros([2, 2, 2, 2], (Kind::Float, Device::Cpu));
        let _ = attention.select(1, 0).fill_(0.5);
        let _ = attention.get(0).get(1).select(1, 0).fill_(1.0);
        let picture = segmentation(3, &images, &attention).unwrap();
        let decoded = image::load_from_memory(&picture.png).unwrap().to_rgb8();
        assert_eq!(picture.size, [decoded.width(), decoded.height()]);
        let count = |wanted: [u8; 3]| decoded.pixels().filter(|pixel| pixel.0 == wanted).count();
        let [first, second, image] = [colour(1), colour(2), [200; 3]].map(count);
        assert!(second > 0 && first == 3 * second && image == first + second, "{first} {second} {image}");
    }
}
