//! Images to bytes and back: each row of an encoded column is a whole PNG, JPEG or WebP file.
//!
//! Measured on one core with rendered rooms of 256 x 256 pixels, decoding takes 0.28 ms from JPEG of quality 90 (21 kB), 0.32 ms from PNG
//! (136 kB) and 1.3 ms from WebP of quality 90 (18 kB); libwebp, as the decoders in Rust write no WebP with loss. Masks are labels, which no
//! loss must touch: as PNG (2 kB of 64 kB, 0.06 ms) any viewer opens them, which bit-packed ones it does not; zstd would halve both figures
//! of what only evaluation reads, for one more codec.

use common::config::{DataConfig, ImageFormat};
use common::shards::{Column, DType, Encoding, OwnedRows, Schema};
use image::codecs::{jpeg, png};
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError};
use rayon::prelude::*;
use std::io::Cursor;
use thiserror::Error;

/// An image that cannot be encoded or decoded.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Images are [H, W, 3] or [H, W].
    #[error("column {column} has rows of shape {shape:?}, which are no images")]
    NoImage {
        /// The column.
        column: String,
        /// Shape of a row.
        shape: Vec<usize>,
    },
    /// The codec fails.
    #[error("column {column} as {encoding}: {reason}")]
    Failed {
        /// The column.
        column: String,
        /// How its rows are encoded.
        encoding: Encoding,
        /// What the codec says.
        reason: String,
    },
}

/// The column `name` of RGB images [`side`, `side`, 3], in the format in which the configuration has images written.
pub fn image_column(data: &DataConfig, name: &str, side: usize) -> Column {
    let quality = data.image_quality.clamp(1, 100) as u8;
    let encoding = match data.image_format {
        ImageFormat::Raw => None,
        ImageFormat::Png => Some(Encoding::Png),
        ImageFormat::Jpeg => Some(Encoding::Jpeg { quality }),
        ImageFormat::Webp => Some(Encoding::Webp { quality }),
    };
    Column::cold(name, DType::U8, &[side, side, 3]).encoded(encoding)
}

/// The column `name` of label images [`side`, `side`]: PNG wherever images are encoded at all.
pub fn label_column(data: &DataConfig, name: &str, side: usize) -> Column {
    let encoding = (data.image_format != ImageFormat::Raw).then_some(Encoding::Png);
    Column::cold(name, DType::U8, &[side, side]).encoded(encoding)
}

/// The rows of all columns of `schema` as they are stored: encoded where the column says so, on all threads of the caller's pool.
///
/// # Errors
/// A column that holds no images.
pub fn encode_columns(schema: &Schema, columns: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<OwnedRows>, CodecError> {
    let encode = |(column, rows): (&Column, Vec<u8>)| {
        let Some(encoding) = column.encoding else { return Ok(OwnedRows::Fixed(rows)) };
        let rows = rows.par_chunks_exact(column.row_bytes()).map(|pixels| encode(column, encoding, pixels));
        rows.collect::<Result<_, _>>().map(OwnedRows::Encoded)
    };
    schema.columns.iter().zip(columns).map(encode).collect()
}

/// Decodes a row of `column` into `pixels`, u8 of the column's shape.
///
/// # Errors
/// Bytes that are no such image, or one of another size or kind.
pub fn decode(column: &Column, bytes: &[u8], pixels: &mut [u8]) -> Result<(), CodecError> {
    let (layout, failed) = (Layout::of(column)?, Failure::of(column));
    match column.encoding {
        None if bytes.len() == pixels.len() => pixels.copy_from_slice(bytes),
        None => return Err(failed.because(format!("{} bytes are no row", bytes.len()))),
        Some(Encoding::Png) => {
            read(png::PngDecoder::new(Cursor::new(bytes)), &layout, pixels).map_err(|reason| failed.because(reason))?;
        }
        Some(Encoding::Jpeg { .. }) => {
            read(jpeg::JpegDecoder::new(Cursor::new(bytes)), &layout, pixels).map_err(|reason| failed.because(reason))?;
        }
        Some(Encoding::Webp { .. }) => {
            let decoded = webp::Decoder::new(bytes).decode().ok_or_else(|| failed.because("no WebP image".into()))?;
            layout
                .check((decoded.width(), decoded.height()), if decoded.is_alpha() { ColorType::Rgba8 } else { ColorType::Rgb8 })
                .map_err(|reason| failed.because(reason))?;
            pixels.copy_from_slice(&decoded);
        }
    }
    Ok(())
}

fn read<D: ImageDecoder>(decoder: Result<D, ImageError>, layout: &Layout, pixels: &mut [u8]) -> Result<(), String> {
    let decoder = decoder.map_err(|error| error.to_string())?;
    layout.check(decoder.dimensions(), decoder.color_type())?;
    decoder.read_image(pixels).map_err(|error| error.to_string())
}

/// One row of `column` as it is stored.
///
/// # Errors
/// A column that holds no images.
pub(super) fn encode_row(column: &Column, row: Vec<u8>) -> Result<Vec<u8>, CodecError> {
    match column.encoding {
        Some(encoding) => encode(column, encoding, &row),
        None => Ok(row),
    }
}

/// Whether a file is what [`decode`] reads from `column`: of its kind, size and colours, by its header.
pub(super) fn holds(column: &Column, file: &[u8]) -> bool {
    let Ok(layout) = Layout::of(column) else { return false };
    match column.encoding {
        None => false,
        Some(Encoding::Png) => is_of(png::PngDecoder::new(Cursor::new(file)), &layout),
        Some(Encoding::Jpeg { .. }) => is_of(jpeg::JpegDecoder::new(Cursor::new(file)), &layout),
        Some(Encoding::Webp { .. }) => webp::BitstreamFeatures::new(file).is_some_and(|found| {
            let plain = !found.has_alpha() && !found.has_animation() && layout.colour == ColorType::Rgb8;
            plain && (found.width(), found.height()) == (layout.width, layout.height)
        }),
    }
}

fn is_of<D: ImageDecoder>(decoder: Result<D, ImageError>, layout: &Layout) -> bool {
    decoder.is_ok_and(|decoder| {
        decoder.dimensions() == (layout.width, layout.height) && decoder.original_color_type() == layout.colour.into()
    })
}

fn encode(column: &Column, encoding: Encoding, pixels: &[u8]) -> Result<Vec<u8>, CodecError> {
    let (Layout { width, height, colour }, failed) = (Layout::of(column)?, Failure::of(column));
    let (mut bytes, kind) = (Vec::new(), ExtendedColorType::from(colour));
    let encoded = match encoding {
        Encoding::Png => png::PngEncoder::new(&mut bytes).write_image(pixels, width, height, kind),
        Encoding::Jpeg { quality } => jpeg::JpegEncoder::new_with_quality(&mut bytes, quality).encode(pixels, width, height, kind),
        Encoding::Webp { quality } if colour == ColorType::Rgb8 => {
            bytes.extend_from_slice(&webp::Encoder::from_rgb(pixels, width, height).encode(f32::from(quality)));
            Ok(())
        }
        Encoding::Webp { .. } => return Err(failed.because("WebP has three colours".into())),
    };
    encoded.map(|()| bytes).map_err(|error| failed.because(error.to_string()))
}

/// How the pixels of a column lie.
struct Layout {
    width: u32,
    height: u32,
    colour: ColorType,
}

impl Layout {
    fn of(column: &Column) -> Result<Self, CodecError> {
        let (sides, colour) = match column.shape[..] {
            [height, width, 3] => ([width, height], ColorType::Rgb8),
            [height, width] => ([width, height], ColorType::L8),
            _ => return Err(CodecError::NoImage { column: column.name.clone(), shape: column.shape.clone() }),
        };
        let [width, height] = sides.map(|side| side as u32);
        Ok(Self { width, height, colour })
    }

    fn check(&self, (width, height): (u32, u32), colour: ColorType) -> Result<(), String> {
        if (width, height, colour) == (self.width, self.height, self.colour) {
            return Ok(());
        }
        Err(format!("an image of {width} x {height} {colour:?}, not {} x {} {:?}", self.width, self.height, self.colour))
    }
}

/// Whose failure it would be.
struct Failure<'a>(&'a Column);

impl<'a> Failure<'a> {
    fn of(column: &'a Column) -> Self {
        Self(column)
    }

    fn because(&self, reason: String) -> CodecError {
        let encoding = self.0.encoding.unwrap_or(Encoding::Png);
        CodecError::Failed { column: self.0.name.clone(), encoding, reason }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SIDE: usize = 48;

    fn columns(format: ImageFormat) -> Schema {
        let mut config = common::config::load::from_str(include_str!("../../../configs/quickstart.toml"), "q.toml", &[]).unwrap();
        config.data.image_format = format;
        Schema { columns: vec![image_column(&config.data, "image", SIDE), label_column(&config.data, "mask", SIDE)] }
    }

    /// A gradient with a bright disc, and the disc's labels.
    fn scene(row: usize) -> (Vec<u8>, Vec<u8>) {
        let label = |index: usize| u8::from((index / SIDE).abs_diff(20 + row) + (index % SIDE).abs_diff(24) < 12) * 7;
        let colour = |index: usize, channel: usize| (index / SIDE * (channel + 2) + 60 * usize::from(label(index) > 0)) as u8;
        let pixels = 0..SIDE * SIDE;
        let image = pixels.clone().flat_map(|index| (0..3).map(move |channel| colour(index, channel))).collect();
        (image, pixels.map(label).collect())
    }

    #[test]
    fn images_come_back_and_labels_exactly() {
        let (images, masks): (Vec<_>, Vec<_>) = (0..5).map(scene).unzip();
        let (images, masks) = (images.concat(), masks.concat());
        for (format, tolerance) in
            [(ImageFormat::Raw, 0.0), (ImageFormat::Png, 0.0), (ImageFormat::Jpeg, 2.5), (ImageFormat::Webp, 3.5)]
        {
            let schema = columns(format);
            let stored = encode_columns(&schema, [images.clone(), masks.clone()]).unwrap();
            for ((column, stored), original) in schema.columns.iter().zip(stored).zip([&images, &masks]) {
                let rows = match stored {
                    OwnedRows::Fixed(rows) => rows.chunks(column.row_bytes()).map(<[u8]>::to_vec).collect::<Vec<_>>(),
                    OwnedRows::Encoded(rows) => rows,
                };
                assert_eq!(rows.len(), 5);
                let mut decoded = vec![0; original.len()];
                for (pixels, row) in decoded.chunks_mut(column.row_bytes()).zip(&rows) {
                    decode(column, row, pixels).unwrap();
                }
                let error: f64 = decoded.iter().zip(original).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
                let error = error / original.len() as f64;
                let allowed = if column.name == "mask" { 0.0 } else { tolerance };
                assert!(error <= allowed, "{format:?} {}: mean error {error}", column.name);
                let smaller = rows.concat().len() < original.len() / 2;
                assert!(format == ImageFormat::Raw || smaller, "{format:?} {}", column.name);
            }
        }
    }

    #[test]
    fn what_is_no_such_image_is_refused_by_name() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Webp] {
            let schema = columns(format);
            let column = &schema.columns[0];
            let OwnedRows::Encoded(rows) = encode_columns(&schema, [scene(0).0, scene(0).1]).unwrap().swap_remove(0) else {
                panic!()
            };
            let refused = |column: &Column, bytes: &[u8]| {
                let mut pixels = vec![0; column.row_bytes()];
                decode(column, bytes, &mut pixels).unwrap_err().to_string()
            };
            for bytes in [&b""[..], b"no image at all", &rows[0][..20]] {
                let error = refused(column, bytes);
                assert!(error.starts_with(&format!("column image as {}", column.encoding.unwrap())), "{error}");
            }
            let larger = Column { shape: vec![SIDE + 1, SIDE, 3], ..column.clone() };
            let error = refused(&larger, &rows[0]);
            assert!(error.contains("an image of 48 x 48 Rgb8, not 48 x 49 Rgb8"), "{error}");
            let strange = Column { shape: vec![SIDE * SIDE * 3], ..column.clone() };
            assert!(refused(&strange, &rows[0]).contains("which are no images"));
        }
    }
}
