//! How good what a probe says is.

use super::targets::{Answer, Target};
use serde::Serialize;
use tch::{Kind, Tensor};

/// The figures of one label over held-out objects.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reading {
    /// Of a category.
    Category {
        /// Share of the objects whose class is found.
        accuracy: f64,
    },
    /// Of figures.
    Figures {
        /// Mean squared error of figures scaled to [-1, 1].
        mse: f64,
        /// Mean squared error in units of the data set.
        mse_unscaled: f64,
        /// Coefficient of determination, which no scaling changes: the mean over those figures of the label that differ between objects.
        /// 1 is perfect, 0 is worth the mean; absent where no figure differs.
        r2: Option<f64>,
    },
}

/// Judges what a probe says, [N, width], about the objects of `target`.
pub fn judge(target: &Target, said: &Tensor) -> Reading {
    match &target.answer {
        Answer::Category { codes, .. } => {
            let right = said.argmax(1, false).eq_tensor(codes).sum(Kind::Double);
            Reading::Category { accuracy: right.double_value(&[]) / target.known() as f64 }
        }
        Answer::Figures { values, known, unit } => {
            let (values, known) = (values.to_kind(Kind::Double), known.to_kind(Kind::Double));
            let count = target.known() as f64;
            let sum = |x: Tensor| (x * &known).sum_dim_intlist([0].as_slice(), false, Kind::Double);
            let errors = sum((said.to_kind(Kind::Double) - &values).square());
            let mean = sum(values.shallow_clone()) / count;
            let spread = sum((&values - mean).square());
            let differ = spread.gt(0.0);
            let determined = (-(&errors / &spread) + 1.0).masked_select(&differ);
            let unit = unit.to_kind(Kind::Double);
            Reading::Figures {
                mse: errors.mean(Kind::Double).double_value(&[]) / count,
                mse_unscaled: (&errors * unit.square()).mean(Kind::Double).double_value(&[]) / count,
                r2: (determined.numel() > 0).then(|| determined.mean(Kind::Double).double_value(&[])),
            }
        }
    }
}

/// What one would say about `objects` objects without looking at them, [objects, width]: the most frequent class among those learned from,
/// the mean of the figures.
pub fn constant(learned_from: &Target, objects: i64) -> Tensor {
    let same = match &learned_from.answer {
        Answer::Category { codes, classes } => {
            codes.masked_select(&codes.ge(0)).bincount(None::<Tensor>, *classes).to_kind(Kind::Float)
        }
        Answer::Figures { values, known, .. } => {
            (values * known).sum_dim_intlist([0].as_slice(), false, Kind::Float) / known.sum(Kind::Float)
        }
    };
    same.expand([objects, -1], false)
}
