//! The parts of a training checkpoint: which tensors, under which names; and which worker reads and writes which part.
//!
//! Every part holds one flat tensor's share of one module: the weights, their moving average, or one of AdamW's moments. All have the
//! names of the official implementation's weights.

use crate::model::Variable;
use crate::training::parameters::Entry;
use crate::training::step::TrainingState;
use bytes::Bytes;
use common::official::weights_part;
use common::storage::BLOCK;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;
use tch::Tensor;

/// Bytes of an f32.
const F32: usize = 4;

/// A part as it lies in a training state.
#[derive(Debug)]
pub(super) struct Part {
    /// Its name in the manifest.
    pub(super) name: String,
    /// Which of the state's flat tensors it belongs to, and its range there.
    pub(super) flat: usize,
    pub(super) range: Range<i64>,
    entries: Vec<Entry>,
    /// What the official files hold beside the trained weights.
    constants: Vec<Variable>,
}

/// All parts of a state, in one fixed order.
pub(super) fn parts(state: &TrainingState) -> Vec<Part> {
    let mut parts = Vec::new();
    for flat in 0..state.flat().len() {
        for (module, (group, range)) in state.model.modules.iter().zip(state.parameters.groups()) {
            let of_module = state.parameters.entries().iter().filter(|entry| entry.group == *group).cloned();
            let weights = matches!(flat, VALUES | AVERAGE);
            let frozen = module.variables.iter().filter(|variable| weights && !variable.trainable);
            parts.push(Part {
                name: name(flat, module.name),
                flat,
                range: range.clone(),
                entries: of_module.collect(),
                constants: frozen.map(Variable::shallow_clone).collect(),
            });
        }
    }
    parts
}

/// Places in [`TrainingState::flat`].
const VALUES: usize = 0;
const EXP_AVG: usize = 1;
const EXP_AVG_SQ: usize = 2;
const AVERAGE: usize = 3;

fn name(flat: usize, module: &str) -> String {
    match flat {
        EXP_AVG => format!("exp_avg-{module}"),
        EXP_AVG_SQ => format!("exp_avg_sq-{module}"),
        _ => weights_part(module, flat == AVERAGE),
    }
}

impl Part {
    /// Its tensors as named views of the state's flat tensors.
    pub(super) fn variables(&self, flat: &[Tensor]) -> Vec<Variable> {
        let Some(flat) = flat.get(self.flat) else { return Vec::new() };
        let view = |entry: &Entry| Variable { name: entry.name.clone(), tensor: entry.view(flat), trainable: true };
        self.entries.iter().map(view).chain(self.constants.iter().map(Variable::shallow_clone)).collect()
    }

    /// Bytes of its file, without the header.
    pub(super) fn bytes(&self) -> usize {
        let trained = self.entries.iter().map(|entry| entry.shape.iter().product::<i64>());
        let constant = self.constants.iter().map(|constant| constant.tensor.numel() as i64);
        trained.chain(constant).sum::<i64>().unsigned_abs() as usize * F32
    }

    /// What comes before the tensors in its file: length, names, shapes and places.
    ///
    /// # Errors
    /// Names that occur twice.
    pub(super) fn header(&self) -> Result<Bytes, String> {
        let shapes = self.entries.iter().map(|entry| (&entry.name, entry.shape.clone()));
        let shapes = shapes.chain(self.constants.iter().map(|constant| (&constant.name, constant.tensor.size())));
        let mut end = 0;
        let tensors = shapes.map(|(name, shape)| {
            let shape: Vec<usize> = shape.iter().map(|side| side.unsigned_abs() as usize).collect();
            let start = end;
            end += shape.iter().product::<usize>() * F32;
            (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
        });
        let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(about), tensors.collect()).map_err(|error| error.to_string())?;
        let mut text = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
        // Tensors start at a block's border, so that they can be written from where they lie.
        const LENGTH: usize = size_of::<u64>();
        text.resize((LENGTH + text.len()).next_multiple_of(BLOCK) - LENGTH, b' ');
        Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat().into())
    }
}

/// Which of `workers` workers takes each of the parts of these sizes: the largest first, each to whoever has least.
pub(super) fn assign(sizes: &[usize], workers: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&part| std::cmp::Reverse(sizes[part]));
    let mut loads = vec![0; workers.max(1)];
    let mut owner = vec![0; sizes.len()];
    for part in order {
        let least = loads.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(worker, _)| worker);
        owner[part] = least;
        loads[least] += sizes[part];
    }
    owner
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_has_more_than_their_share_and_one_part(sizes in prop::collection::vec(0_usize..1000, 0..20), workers in 1_usize..9) {
            let owners = assign(&sizes, workers);
            let load = |worker| sizes.iter().zip(&owners).filter(|(_, owner)| **owner == worker).map(|(size, _)| size).sum::<usize>();
            let (total, largest) = (sizes.iter().sum::<usize>(), sizes.iter().copied().max().unwrap_or_default());
            prop_assert!((0..workers).all(|worker| load(worker) <= total / workers + largest));
            prop_assert_eq!((0..workers).map(load).sum::<usize>(), total);
            prop_assert_eq!(assign(&sizes, workers), owners, "all workers come to the same");
        }
    }
}
