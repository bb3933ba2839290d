//! From the size of the data set to that of the network: a centred square, scaled.
//!
//! Images are scaled as the official code scales them: bilinear with antialiasing, the triangle filter of Pillow and torchvision, whose
//! reach grows with the factor of reduction. Masks take the nearest pixel, as Pillow does. What has the right size already is only cut.

use super::picture::{Mask, Picture};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeError, ResizeOptions, Resizer};

/// The square of an image that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    left: usize,
    top: usize,
    side: usize,
}

impl Window {
    /// The centred square with `crop` times the shorter side.
    pub(super) fn centred((width, height): (usize, usize), crop: f64) -> Self {
        let side = ((crop * width.min(height) as f64) as usize).max(1);
        Self { left: (width - side) / 2, top: (height - side) / 2, side }
    }

    /// Whether it is all of an image of this side.
    pub(super) fn is_whole(&self, side: usize) -> bool {
        *self == Self { left: 0, top: 0, side }
    }

    /// The window of an image, `[side, side, 3]`.
    pub(super) fn of_picture(&self, picture: &Picture, side: usize) -> Result<Vec<u8>, ResizeError> {
        if self.side == side {
            return Ok(self.cut(&picture.pixels, picture.width, 3));
        }
        let (width, height) = (picture.width as u32, picture.height as u32);
        let source =
            ImageRef::new(width, height, &picture.pixels, PixelType::U8x3).map_err(|_| ResizeError::PixelTypesAreDifferent)?;
        let mut target = Image::new(side as u32, side as u32, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
            self.left as f64,
            self.top as f64,
            self.side as f64,
            self.side as f64,
        );
        Resizer::new().resize(&source, &mut target, &options)?;
        Ok(target.into_vec())
    }

    /// The window of a mask, `[side, side]`.
    pub(super) fn of_mask(&self, mask: &Mask, side: usize) -> Vec<u8> {
        if self.side == side {
            return self.cut(&mask.pixels, mask.width, 1);
        }
        // The source pixel in which the centre of a target pixel lies: floor((i + 1/2) * self.side / side).
        let nearest: Vec<usize> = (0..side).map(|i| (2 * i + 1) * self.side / (2 * side)).collect();
        let row = |y: &usize| &mask.pixels[(self.top + y) * mask.width + self.left..];
        nearest.iter().map(row).flat_map(|row| nearest.iter().map(|&x| row[x])).collect()
    }

    /// How many pixels of each instance are in the window.
    pub(super) fn census(&self, mask: &Mask) -> [u32; 256] {
        let mut counts = [0; 256];
        for y in self.top..self.top + self.side {
            let begin = y * mask.width + self.left;
            mask.pixels[begin..begin + self.side].iter().for_each(|&instance| counts[usize::from(instance)] += 1);
        }
        counts
    }

    fn cut(&self, pixels: &[u8], width: usize, channels: usize) -> Vec<u8> {
        if self.side == width && pixels.len() == width * width * channels {
            return pixels.to_vec();
        }
        let rows = pixels.chunks_exact(width * channels).skip(self.top).take(self.side);
        rows.flat_map(|row| &row[self.left * channels..(self.left + self.side) * channels]).copied().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::datasets::picture::Raster;

    /// A picture of one colour channel, three times.
    fn picture(width: usize, rows: &[u8]) -> Picture {
        let pixels = rows.iter().flat_map(|&value| [value; 3]).collect();
        Raster::new(width, rows.len() / width, pixels).unwrap()
    }

    #[test]
    fn the_centre_is_cut_out_and_nothing_is_scaled_that_fits() {
        let rows: Vec<u8> = (0..24).collect();
        let window = Window::centred((6, 4), 1.0);
        assert_eq!(window, Window { left: 1, top: 0, side: 4 });
        let kept = window.of_picture(&picture(6, &rows), 4).unwrap();
        let kept: Vec<u8> = kept.chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(kept, [1, 2, 3, 4, 7, 8, 9, 10, 13, 14, 15, 16, 19, 20, 21, 22]);
        assert_eq!(window.of_mask(&Raster::new(6, 4, rows).unwrap(), 4), kept);
        // As CLEVRTex's own loader: 0.8 of 240 rows.
        assert_eq!(Window::centred((320, 240), 0.8), Window { left: 64, top: 24, side: 192 });
    }

    #[test]
    fn masks_take_the_nearest_pixel() {
        let mask = Raster::new(6, 6, (0..36).collect()).unwrap();
        let window = Window::centred((6, 6), 1.0);
        assert_eq!(window.of_mask(&mask, 2), [7, 10, 25, 28]);
        assert_eq!(window.of_mask(&mask, 12)[..12], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    /// What Pillow gives for `Image.resize((4, 4), Image.BILINEAR)`.
    #[test]
    fn images_are_scaled_as_pillow_scales_them() {
        let rows: Vec<u8> = (0..81u32).map(|i| (i * i * 7 % 251) as u8).collect();
        let scaled = Window::centred((9, 9), 1.0).of_picture(&picture(9, &rows), 4).unwrap();
        let scaled: Vec<u8> = scaled.chunks(3).map(|pixel| pixel[0]).collect();
        let pillow: [u8; 16] = [62, 74, 110, 82, 87, 95, 132, 100, 79, 126, 148, 125, 132, 142, 130, 126];
        let worst = scaled.iter().zip(pillow).map(|(ours, theirs)| ours.abs_diff(theirs)).max();
        assert!(worst <= Some(1), "{scaled:?} beside {pillow:?}");
    }
}
