//! From samples to the columns of a shard.
//!
//! | column | elements | there for |
//! |---|---|---|
//! | `image` | u8 `[side, side, 3]` | all |
//! | `mask` | u8 `[side, side]`, 0 for the background, k for object k | data sets with masks |
//! | `visibility` | f32 `[objects]`, as published; 0 for objects without a pixel in the window | data sets about objects, with masks |
//! | one per label | i64 `[objects]` or f32 `[objects, ...]`, row k - 1 for object k | data sets with labels |
//! | one per array | as it comes | WebDataset |

use super::labels::{Kind, Label, Rows};
use super::picture::Mask;
use super::prepare::Window;
use super::{Contents, ImportError, Sample};
use crate::data::{MOMENTS, encode_row, holds, image_column, label_column};
use bytes::Bytes;
use common::config::{DataConfig, ImportConfig};
use common::shards::{Column, DType, Schema};
use serde_json::{Map, Value};

/// How samples become rows.
pub(crate) struct RowFormat {
    /// What samples have.
    contents: Contents,
    /// Share of the shorter side that is kept.
    crop: f64,
    /// Rows of the tables.
    objects: usize,
    schema: Schema,
}

impl RowFormat {
    /// Of what samples have, as the configuration wants it.
    pub(super) fn new(contents: Contents, data: &DataConfig, import: &ImportConfig) -> Self {
        let (side, objects) = (data.resolution, import.max_objects());
        let mut columns = vec![image_column(data, "image", side)];
        columns.extend(contents.masks.then(|| label_column(data, "mask", side)));
        columns.extend(contents.visibility.then(|| Column::cold("visibility", DType::F32, &[objects])));
        columns.extend(contents.labels.iter().map(|Label { name, kind }| match kind {
            Kind::Category(_) => Column::cold(name, DType::I64, &[objects]),
            Kind::Figures(shape) => Column::cold(name, DType::F32, &[&[objects], *shape].concat()),
        }));
        columns.extend_from_slice(&contents.arrays);
        Self { contents, crop: import.crop, objects, schema: Schema { columns } }
    }

    /// The columns. Only among those that are stored as they come may be what a training step reads most.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The names behind the codes of each category, for the manifest.
    pub(crate) fn categories(&self) -> Map<String, Value> {
        let named = self.contents.labels.iter().filter_map(|label| match label.kind {
            Kind::Category(names) if !names.is_empty() => Some((label.name.to_owned(), names.into())),
            _ => None,
        });
        named.collect()
    }

    /// What is known about the data set as a whole, for the manifest.
    pub(crate) fn origin(&self) -> &Map<String, Value> {
        &self.contents.origin
    }

    fn has_moments(&self) -> bool {
        self.contents.arrays.iter().any(|column| column.name == MOMENTS)
    }

    /// One row: the bytes of each column as they are stored, in the order of the schema.
    pub(super) fn row(&self, sample: &Sample) -> Result<Vec<Bytes>, ImportError> {
        let (file, side) = (&sample.file, self.schema.columns[0].shape[0]);
        let refused = |reason: String| ImportError::Picture { file: file.clone(), reason };
        if sample.objects > self.objects {
            return Err(ImportError::Objects { file: file.clone(), objects: sample.objects, limit: self.objects });
        }
        let window = Window::centred(sample.picture.size(), self.crop);
        let untouched = sample.picture.size() == (side, side) && window.is_whole(side);
        if !untouched && self.has_moments() {
            return Err(ImportError::Moments { file: file.clone(), size: sample.picture.size(), side, crop: self.crop });
        }
        let [image, mask_file] = sample.kept.files.each_ref().map(|file| file.clone().filter(|_| untouched));
        let pixels = || window.of_picture(&sample.picture, side).map_err(|error| refused(error.to_string()));
        let mut row = vec![stored(&self.schema.columns[0], image, pixels)?];
        if let Some(mask) = &sample.mask {
            row.push(stored(&self.schema.columns[1], mask_file, || Ok(window.of_mask(mask, side)))?);
            if self.contents.visibility {
                row.push(self.visibility(sample, mask, window)?);
            }
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
        row.extend_from_slice(&sample.kept.arrays);
        Ok(row)
    }

    /// The visibility of the objects, as far as they are in the window.
    fn visibility(&self, sample: &Sample, mask: &Mask, window: Window) -> Result<Bytes, ImportError> {
        let instance = mask.pixels.iter().copied().max().map_or(0, usize::from);
        if instance > sample.objects {
            return Err(ImportError::Instance { file: sample.file.clone(), instance, objects: sample.objects });
        }
        let counts = window.census(mask);
        let seen = sample.visibility.iter().zip(&counts[1..]).map(|(&published, &here)| if here > 0 { published } else { 0.0 });
        Ok(table(seen, 0.0, self.objects))
    }
}

/// A row of `column`: the file itself where that is what would be read from the column, else its encoded pixels. So a JPEG image that has
/// the right size loses nothing.
fn stored(
    column: &Column,
    file: Option<Bytes>,
    pixels: impl FnOnce() -> Result<Vec<u8>, ImportError>,
) -> Result<Bytes, ImportError> {
    match file.filter(|file| holds(column, file)) {
        Some(file) => Ok(file),
        None => Ok(encode_row(column, pixels()?)?.into()),
    }
}

/// Little-endian figures, filled up to `length` of them.
fn table(figures: impl Iterator<Item = f32>, filler: f32, length: usize) -> Bytes {
    figures.chain(std::iter::repeat(filler)).take(length).flat_map(f32::to_le_bytes).collect()
}
