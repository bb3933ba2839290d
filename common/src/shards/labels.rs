//! What a data set says about the objects in its masks: which of its columns are tables of labels, one row per object.

use std::ops::Range;

use serde_json::Value;

use super::schema::{Column, DType};
use super::{Dataset, Manifest};

/// One label of objects: a column, or some figures of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLabel {
    /// What it is called.
    pub name: String,
    /// What it says.
    pub kind: LabelKind,
    /// The column, `[objects, ..]`.
    pub column: String,
    /// Its rows: the most objects of an image.
    pub objects: usize,
    /// The figures of a row that are meant.
    pub figures: Range<usize>,
}

/// What a label says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelKind {
    /// A class, as a code from 0 up, less than 0 where it is not known; the names of the classes, if they were published.
    Category(Vec<String>),
    /// Figures, none where they are not known.
    Figures,
}

/// A data set without any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url}: nothing is said about the objects in these images: there is no column of labels; docs/data.md says which data sets have them"
)]
pub struct NoLabels {
    /// The data set.
    pub url: String,
}

/// The table `attributes` of the built-in data set: names, how many figures each, and the classes where they are codes. What follows is the
/// number of visible pixels.
const SCENES: [(&str, usize, &[&str]); 6] = [
    ("shape", 1, &["cube", "sphere", "cylinder"]),
    ("colour", 1, &["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]),
    ("material", 1, &["rubber", "metal", "checker", "stripes", "wood", "marble", "cobbles", "spots"]),
    ("size", 1, &["small", "large"]),
    ("position", 2, &[]),
    ("rotation", 1, &[]),
];

/// The labels of a data set, in the order of its columns.
///
/// # Errors
/// There is none.
pub fn object_labels(dataset: &Dataset) -> Result<Vec<ObjectLabel>, NoLabels> {
    let labels = labels_of(dataset.manifest());
    if labels.is_empty() { Err(NoLabels { url: dataset.url().to_owned() }) } else { Ok(labels) }
}

fn labels_of(manifest: &Manifest) -> Vec<ObjectLabel> {
    let columns = &manifest.schema.columns;
    if manifest.metadata["kind"] == "scenes" {
        return columns
            .iter()
            .filter(|column| column.name == "attributes" && column.shape.len() == 2)
            .flat_map(of_scenes)
            .collect();
    }
    let labels = columns.iter().filter_map(|column| label_of(column, &manifest.metadata["categories"]));
    labels.collect()
}

fn of_scenes(column: &Column) -> Vec<ObjectLabel> {
    let mut end = 0;
    let label = |(name, width, classes): (&str, usize, &[&str])| {
        end += width;
        let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
        let kind = if classes.is_empty() { LabelKind::Figures } else { LabelKind::Category(classes) };
        ObjectLabel {
            name: name.to_owned(),
            kind,
            column: column.name.clone(),
            objects: column.shape[0],
            figures: end - width..end,
        }
    };
    SCENES.into_iter().map(label).collect()
}

/// The tables of imported data sets: whole numbers are codes, fractions are figures.
fn label_of(column: &Column, categories: &Value) -> Option<ObjectLabel> {
    let kind = match (column.dtype, &column.shape[..]) {
        (DType::I64, [_]) => {
            let names = categories[&column.name].as_array().into_iter().flatten();
            LabelKind::Category(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
        }
        (DType::F32, [_, ..]) if column.name != "visibility" => LabelKind::Figures,
        _ => return None,
    };
    let width = column.shape[1..].iter().product();
    let (name, objects) = (column.name.clone(), column.shape[0]);
    Some(ObjectLabel { column: name.clone(), name, kind, objects, figures: 0..width })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::{Schema, VERSION};
    use serde_json::json;

    fn manifest(columns: Vec<Column>, metadata: Value) -> Manifest {
        let (settings, fingerprint) = (String::new(), String::new());
        Manifest {
            version: VERSION,
            settings,
            schema: Schema { columns },
            rows_per_shard: 1,
            metadata,
            shards: vec![],
            fingerprint,
        }
    }

    #[test]
    fn tables_are_told_from_images_by_their_types() {
        let table = |name, dtype, shape: &[usize]| Column::cold(name, dtype, shape);
        let columns = vec![
            Column::hot("moments", DType::F16, &[8, 4, 4]),
            table("image", DType::U8, &[8, 8, 3]),
            table("visibility", DType::F32, &[5]),
            table("shape", DType::I64, &[5]),
            table("code", DType::I64, &[5]),
            table("scale", DType::F32, &[5]),
            table("boxes", DType::F32, &[5, 8, 3]),
        ];
        let manifest = manifest(columns, json!({"kind": "movi", "categories": {"shape": ["cube", "ball"]}}));
        let label = |name: &str, kind, figures| ObjectLabel { name: name.into(), kind, column: name.into(), objects: 5, figures };
        let names = LabelKind::Category(vec!["cube".into(), "ball".into()]);
        let expected = [
            label("shape", names, 0..1),
            label("code", LabelKind::Category(vec![]), 0..1),
            label("scale", LabelKind::Figures, 0..1),
            label("boxes", LabelKind::Figures, 0..24),
        ];
        assert_eq!(labels_of(&manifest), expected);
    }

    #[test]
    fn the_table_of_the_built_in_data_set_is_taken_apart() {
        let columns = vec![Column::cold("mask", DType::U8, &[8, 8]), Column::cold("attributes", DType::F32, &[10, 8])];
        let labels = labels_of(&manifest(columns, json!({"kind": "scenes"})));
        let named: Vec<_> = labels.iter().map(|label| (label.name.as_str(), label.figures.clone())).collect();
        let expected =
            [("shape", 0..1), ("colour", 1..2), ("material", 2..3), ("size", 3..4), ("position", 4..6), ("rotation", 6..7)];
        assert_eq!(named, expected);
    }
}
