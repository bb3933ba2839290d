//! Pictures for people: label maps, cut-outs, labelled grids, PNG.

use super::lettering::{self, CHARACTER};
use super::palette::colour;
use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use tch::{TchError, Tensor};

/// Smallest side of a tile of a grid: smaller pictures are enlarged so that they can be looked at.
const TILE: usize = 112;
/// Between the tiles of a grid.
const GAP: usize = 4;
/// What lies between and behind.
pub(super) const PAPER: [u8; 3] = [250, 250, 248];
/// Titles.
pub(super) const INK: [u8; 3] = [40, 42, 48];

/// Why a picture could not be made or encoded.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The bytes do not fit the size.
    #[error("a picture of {width}x{height} pixels needs {} bytes, got {bytes}", width * height * 3)]
    Size {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// The tensor is not the image that it should be.
    #[error("cannot take a picture from a tensor: {0}")]
    Tensor(#[from] TchError),
    /// The encoder failed.
    #[error("cannot encode a picture as PNG: {0}")]
    Png(#[from] image::ImageError),
}

/// An RGB picture, 8 bits per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    /// Flat colours, which are enlarged without smoothing.
    flat: bool,
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height), flat: true }
    }

    /// A square picture of nothing.
    pub fn blank(side: usize) -> Self {
        Self::filled(side, side, PAPER)
    }

    /// A picture from `[height, width, 3]` bytes.
    ///
    /// # Errors
    /// When the bytes do not fit the size.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, PictureError> {
        if rgb.len() != width * height * 3 {
            return Err(PictureError::Size { width, height, bytes: rgb.len() });
        }
        Ok(Self { width, height, rgb, flat: false })
    }

    /// The picture of an image u8 [H, W, 3].
    ///
    /// # Errors
    /// A tensor of other dimensions or of another kind.
    pub fn from_image(image: &Tensor) -> Result<Self, PictureError> {
        let (height, width, _) = image.size3()?;
        Self::from_rgb(width as usize, height as usize, Vec::try_from(image.flatten(0, -1).contiguous())?)
    }

    /// A square label map in distinct colours, `side` pixels wide; label 0 is dark.
    ///
    /// # Errors
    /// When the labels are not `side * side`.
    pub fn labels(side: usize, labels: impl IntoIterator<Item = usize>) -> Result<Self, PictureError> {
        let picture = Self::from_rgb(side, side, labels.into_iter().flat_map(colour).collect())?;
        Ok(Self { flat: true, ..picture })
    }

    /// The slot of every pixel in distinct colours, `side` pixels wide. The dark of "no object" is no slot's.
    ///
    /// # Errors
    /// When the slots are not `side * side`.
    pub fn slots(side: usize, slots: &[u8]) -> Result<Self, PictureError> {
        Self::labels(side, slots.iter().map(|&slot| usize::from(slot) + 1))
    }

    /// This picture where `weights` (one per pixel, 0..1) is 1, fading to paper where it is 0.
    pub fn cut_out(&self, weights: &[f32]) -> Self {
        let mut cut = self.clone();
        for (pixel, &weight) in cut.rgb.chunks_exact_mut(3).zip(weights) {
            let weight = weight.clamp(0.0, 1.0);
            for (channel, paper) in pixel.iter_mut().zip(PAPER) {
                *channel = (weight * f32::from(*channel) + (1.0 - weight) * f32::from(paper)).round() as u8;
            }
        }
        cut
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Colours one pixel; nothing happens outside of the picture.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let start = (y * self.width + x) * 3;
            self.rgb[start..start + 3].copy_from_slice(&colour);
        }
    }

    /// Copies `other` with its upper left corner at (x, y), cut off at this picture's edge.
    fn paste(&mut self, other: &Self, x: usize, y: usize) {
        let columns = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let from = row * other.width * 3;
            let to = ((y + row) * self.width + x) * 3;
            self.rgb[to..to + columns * 3].copy_from_slice(&other.rgb[from..from + columns * 3]);
        }
    }

    /// The picture at another size.
    fn resized(&self, width: usize, height: usize) -> Self {
        let Some(source) = RgbImage::from_raw(self.width as u32, self.height as u32, self.rgb.clone()) else {
            return self.clone();
        };
        let filter = if self.flat { FilterType::Nearest } else { FilterType::CatmullRom };
        let rgb = resize(&source, width as u32, height as u32, filter).into_raw();
        Self { width, height, rgb, flat: self.flat }
    }

    /// The square picture as large as a grid shows it.
    pub(super) fn as_tile(&self) -> Self {
        let side = tile_side(self.width);
        self.resized(side, side)
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn to_png(&self) -> Result<Vec<u8>, PictureError> {
        let mut file = Vec::new();
        PngEncoder::new(&mut file).write_image(&self.rgb, self.width as u32, self.height as u32, ExtendedColorType::Rgb8)?;
        Ok(file)
    }
}

/// Side of the tiles of a grid for pictures of `side` rows and columns: enlarged by a whole factor.
pub fn tile_side(side: usize) -> usize {
    side * TILE.div_ceil(side.max(1))
}

/// Rows of square pictures under column titles. Rows may be of different length; missing tiles stay empty.
pub fn grid(titles: &[String], rows: &[Vec<Picture>]) -> Picture {
    let side = rows.iter().flatten().map(|tile| tile.width).max().unwrap_or(1);
    let tile_side = tile_side(side);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(titles.len());
    let header = if titles.is_empty() { GAP } else { CHARACTER + 2 * GAP };
    let place = |index: usize| GAP + index * (tile_side + GAP);
    let mut picture = Picture::filled(place(columns), header + rows.len() * (tile_side + GAP), PAPER);
    for (column, title) in titles.iter().enumerate() {
        lettering::write(&mut picture, title, place(column), GAP, tile_side, INK);
    }
    for (row, tiles) in rows.iter().enumerate() {
        for (column, tile) in tiles.iter().enumerate() {
            let y = header + row * (tile_side + GAP);
            picture.paste(&tile.resized(tile_side, tile_side), place(column), y);
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_shows_every_tile_at_its_place_and_survives_png() {
        let red = Picture::filled(128, 128, [255, 0, 0]);
        let blue = Picture::filled(128, 128, [0, 0, 255]);
        let picture = grid(&["left".into(), "right".into()], &[vec![red.clone(), blue], vec![red]]);
        assert_eq!((picture.width(), picture.height()), (3 * GAP + 256, CHARACTER + 2 * GAP + 2 * (128 + GAP)));
        let at = |x: usize, y: usize| picture.rgb()[(y * picture.width() + x) * 3..][..3].to_vec();
        let second_row = CHARACTER + 2 * GAP + 128 + GAP;
        assert_eq!(at(10, 60), [255, 0, 0]);
        assert_eq!(at(2 * GAP + 128 + 10, 60), [0, 0, 255]);
        assert_eq!(at(10, second_row + 1), [255, 0, 0]);
        assert_eq!(at(2 * GAP + 128 + 10, second_row + 1), PAPER);
        assert!(picture.rgb()[..(CHARACTER + GAP) * picture.width() * 3].chunks(3).any(|pixel| pixel == INK), "no title");
        let decoded = picture.to_png().map(|file| image::load_from_memory(&file).map(|image| image.to_rgb8().into_raw()));
        assert_eq!(decoded.ok().and_then(Result::ok).as_deref(), Some(picture.rgb()));
    }

    #[test]
    fn cut_outs_keep_what_has_weight_and_fade_the_rest_to_paper() {
        let cut = Picture::filled(2, 1, [10, 20, 30]).cut_out(&[1.0, 0.0]);
        assert_eq!(cut.rgb(), [&[10, 20, 30][..], &PAPER].concat());
    }

    #[test]
    fn bytes_that_do_not_fit_are_refused_by_name() {
        let error = Picture::from_rgb(2, 2, vec![0; 5]).map_err(|error| error.to_string());
        assert_eq!(error, Err("a picture of 2x2 pixels needs 12 bytes, got 5".into()));
    }
}
