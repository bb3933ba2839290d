//! Decoding images and masks.

use super::ImportError;
use image::{ImageFormat, ImageReader};
use png::{BitDepth, ColorType, Transformations};
use std::io::Cursor;

/// Pixels of `CHANNELS` bytes, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raster<const CHANNELS: usize> {
    /// Pixels per row.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
    /// `[height, width, CHANNELS]`.
    pub(super) pixels: Vec<u8>,
}

/// An RGB image.
pub(super) type Picture = Raster<3>;
/// The instance of every pixel: 0 for the background, 1 to n for the objects.
pub(super) type Mask = Raster<1>;

impl<const CHANNELS: usize> Raster<CHANNELS> {
    /// Pixels that are there already; none if their number does not fit.
    pub(super) fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        (width > 0 && height > 0 && pixels.len() == width * height * CHANNELS).then_some(Self { width, height, pixels })
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }
}

/// Decodes a PNG, JPEG or WebP image; an alpha channel is dropped, shades of grey become RGB.
pub(super) fn decode_picture(bytes: &[u8], file: &str) -> Result<Picture, ImportError> {
    let refused = |reason: String| ImportError::Picture { file: file.to_owned(), reason };
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        _ => return Err(refused("it is neither PNG nor JPEG nor WebP".into())),
    };
    let decoded = ImageReader::with_format(Cursor::new(bytes), format).decode();
    let image = decoded.map_err(|error| refused(error.to_string()))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    Raster::new(width, height, image.into_raw()).ok_or_else(|| refused("it has no pixels".into()))
}

/// Decodes the PNG mask of an image of `size`: the values as they are stored, indices into a palette if it has one. The colours of
/// palettes are for people.
pub(super) fn decode_mask(bytes: &[u8], file: &str, size: (usize, usize)) -> Result<Mask, ImportError> {
    let refused = |reason: String| ImportError::Picture { file: file.to_owned(), reason };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| refused(error.to_string()))?;
    let (colour, depth) = reader.output_color_type();
    if !matches!(colour, ColorType::Grayscale | ColorType::Indexed) || depth == BitDepth::Sixteen {
        return Err(refused(format!("a mask has one byte per pixel, this one is {colour:?} with {} bits", depth as u8)));
    }
    let found = (reader.info().width as usize, reader.info().height as usize);
    if found != size {
        return Err(ImportError::MaskSize { file: file.to_owned(), found, expected: size });
    }
    let length = reader.output_buffer_size().ok_or_else(|| refused("it is too large".into()))?;
    let mut stored = vec![0; length];
    let info = reader.next_frame(&mut stored).map_err(|error| refused(error.to_string()))?;
    let pixels = if depth == BitDepth::Eight { stored } else { unpack(&stored, size.0, info.line_size, depth as usize) };
    Raster::new(size.0, size.1, pixels).ok_or_else(|| refused("it has no pixels".into()))
}

/// Rows of values of 1, 2 or 4 bits, the first one in the highest bits, each row padded to whole bytes.
fn unpack(stored: &[u8], width: usize, line: usize, bits: usize) -> Vec<u8> {
    let value = |row: &[u8], x: usize| (row[x * bits / 8] >> (8 - bits - x * bits % 8)) & ((1 << bits) - 1) as u8;
    stored.chunks_exact(line).flat_map(|row| (0..width).map(|x| value(row, x))).collect()
}
