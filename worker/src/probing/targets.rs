//! What the probes are to say.

use common::shards::{LabelKind, ObjectLabel};
use tch::{Device, Kind, Tensor};

/// One label of N objects.
#[derive(Debug)]
pub struct Target {
    /// The label's name.
    pub name: String,
    /// What is right.
    pub answer: Answer,
}

/// What is right about N objects.
#[derive(Debug)]
pub enum Answer {
    /// Classes.
    Category {
        /// i64 [N]; -1 where not known.
        codes: Tensor,
        /// How many there are.
        classes: i64,
    },
    /// Figures.
    Figures {
        /// f32 [N, width], each figure between -1 and 1 over all objects; 0 where not known.
        values: Tensor,
        /// f32 [N, 1]: whether they are known.
        known: Tensor,
        /// f32 [width]: 1 in units of the data set.
        unit: Tensor,
    },
}

impl Target {
    /// A label with its rows f32 [N, width].
    pub fn new(label: &ObjectLabel, rows: &Tensor) -> Self {
        let answer = match &label.kind {
            LabelKind::Category(_) => {
                let codes = rows.select(1, 0).to_kind(Kind::Int64).clamp_min(-1);
                // Up to the last one that occurs, as in the official code.
                let classes = if codes.numel() == 0 { 0 } else { codes.max().int64_value(&[]) + 1 };
                Answer::Category { codes, classes }
            }
            LabelKind::Figures => scaled(rows),
        };
        Self { name: label.name.clone(), answer }
    }

    /// The objects of these numbers, i64 [M], on `device`.
    pub fn select(&self, objects: &Tensor, device: Device) -> Self {
        let of = |rows: &Tensor| rows.index_select(0, objects).to_device(device);
        let answer = match &self.answer {
            Answer::Category { codes, classes } => Answer::Category { codes: of(codes), classes: *classes },
            Answer::Figures { values, known, unit } => {
                Answer::Figures { values: of(values), known: of(known), unit: unit.to_device(device) }
            }
        };
        Self { name: self.name.clone(), answer }
    }

    /// The number of classes, of a category.
    pub fn classes(&self) -> Option<i64> {
        match self.answer {
            Answer::Category { classes, .. } => Some(classes),
            Answer::Figures { .. } => None,
        }
    }

    /// Of how many objects it is known.
    pub fn known(&self) -> i64 {
        match &self.answer {
            Answer::Category { codes, .. } => codes.ge(0).sum(Kind::Int64).int64_value(&[]),
            Answer::Figures { known, .. } => known.sum(Kind::Int64).int64_value(&[]),
        }
    }

    /// Figures that a probe puts out: one per class, or the label's own.
    pub fn width(&self) -> i64 {
        match &self.answer {
            Answer::Category { classes, .. } => *classes,
            Answer::Figures { values, .. } => values.size()[1],
        }
    }
}

/// Every figure from [least, largest] to [-1, 1]; one that never changes is 0.
fn scaled(rows: &Tensor) -> Answer {
    let known = rows.isfinite().all_dim(1, true);
    let extreme = |other: f64, of: fn(&Tensor) -> Tensor| of(&rows.where_scalarother(&known, other));
    let least = extreme(f64::INFINITY, |rows| rows.amin([0].as_slice(), false));
    let largest = extreme(f64::NEG_INFINITY, |rows| rows.amax([0].as_slice(), false));
    let unit = (&largest - &least) / 2.0;
    let values = (rows - (&largest + &least) / 2.0) / &unit;
    let usable = known.logical_and(&unit.gt(0.0));
    Answer::Figures { values: values.where_scalarother(&usable, 0.0), known: known.to_kind(Kind::Float), unit }
}
