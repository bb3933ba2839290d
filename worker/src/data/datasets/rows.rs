//! From samples to the columns of a shard.
//!
//! | column | elements | there for |
//! |---|---|---|
//! | `image` | u8 `[side, side, 3]` | all |
//! | `mask` | u8 `[side, side]`, 0 for the background, k for object k | data sets with masks |
//! | `visibility` | f32 `[objects]`, as published; 0 for objects without a pixel in the window | data sets with masks |
//! | one per label | i64 `[objects]` or f32 `[objects, ...]`, row k - 1 for object k | data sets with labels |

use super::labels::{Kind, Label, Rows};
use super::prepare::Window;
use super::{Contents, ImportError, Sample};
use common::shards::{Column, DType, Encoding, Schema};
use serde_json::{Map, Value};

/// How samples become rows.
#[derive(Clone, Copy)]
pub(crate) struct RowFormat {
    /// What samples have.
    pub(super) contents: Contents,
    /// Side of images and masks.
    pub(super) side: usize,
    /// Share of the shorter side that is kept.
    pub(super) crop: f64,
    /// Rows of the tables.
    pub(super) objects: usize,
    /// How images are stored, and how masks are.
    pub(super) encodings: [Option<Encoding>; 2],
}

impl RowFormat {
    /// The columns. None of them is what a training step reads most.
    pub(crate) fn schema(&self) -> Schema {
        let side = self.side;
        let [image, mask] = self.encodings;
        let mut columns = vec![Column::cold("image", DType::U8, &[side, side, 3]).encoded(image)];
        if self.contents.masks {
            columns.push(Column::cold("mask", DType::U8, &[side, side]).encoded(mask));
            columns.push(Column::cold("visibility", DType::F32, &[self.objects]));
        }
        for Label { name, kind } in self.contents.labels {
            columns.push(match kind {
                Kind::Category(_) => Column::cold(name, DType::I64, &[self.objects]),
                Kind::Figures(shape) => Column::cold(name, DType::F32, &[&[self.objects], *shape].concat()),
            });
        }
        Schema { columns }
    }

    /// The names behind the codes of each category, for the manifest.
    pub(crate) fn categories(&self) -> Map<String, Value> {
        let named = self.contents.labels.iter().filter_map(|label| match label.kind {
            Kind::Category(names) if !names.is_empty() => Some((label.name.to_owned(), names.into())),
            _ => None,
        });
        named.collect()
    }

    /// One row: the bytes of each column, in the order of the schema, images and masks as pixels.
    pub(super) fn row(&self, sample: &Sample) -> Result<Vec<Vec<u8>>, ImportError> {
        let file = &sample.file;
        let refused = |reason: String| ImportError::Picture { file: file.clone(), reason };
        if sample.objects > self.objects {
            return Err(ImportError::Objects { file: file.clone(), objects: sample.objects, limit: self.objects });
        }
        let window = Window::centred(sample.picture.size(), self.crop);
        let picture = window.of_picture(&sample.picture, self.side).map_err(|error| refused(error.to_string()))?;
        let mut row = vec![picture];
        if let Some(mask) = &sample.mask {
            let instance = mask.pixels.iter().copied().max().map_or(0, usize::from);
            if instance > sample.objects {
                return Err(ImportError::Instance { file: file.clone(), instance, objects: sample.objects });
            }
            row.push(window.of_mask(mask, self.side));
            let counts = window.census(mask);
            let seen = sample.visibility.iter().zip(&counts[1..]).map(|(&published, &here)| if here > 0 { published } else { 0.0 });
            row.push(table(seen, 0.0, self.objects));
        }
        for (label, rows) in self.contents.labels.iter().zip(&sample.rows) {
            row.push(match rows {
                Rows::Codes(codes) => {
                    let codes = codes.iter().copied().chain(std::iter::repeat(-1));
                    codes.take(self.objects).flat_map(i64::to_le_bytes).collect()
                }
                Rows::Figures(figures) => table(figures.iter().copied(), f32::NAN, self.objects * label.width()),
            });
        }
        Ok(row)
    }
}

/// Little-endian figures, filled up to `length` of them.
fn table(figures: impl Iterator<Item = f32>, filler: f32, length: usize) -> Vec<u8> {
    figures.chain(std::iter::repeat(filler)).take(length).flat_map(f32::to_le_bytes).collect()
}
