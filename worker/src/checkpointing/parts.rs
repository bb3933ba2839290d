//! The parts of a training checkpoint: which tensors, under which names.

use super::CheckpointingError;
use crate::model::weights::{from_safetensors, to_safetensors};
use crate::model::{Module, Variable};
use crate::training::parameters::Entry;
use crate::training::step::TrainingState;
use bytes::Bytes;
use common::official::weights_part;
use std::path::Path;
use tch::{Tensor, no_grad};

/// The part with AdamW's moments.
pub(super) const OPTIMIZER: &str = "optimizer";

/// A copy of all that a checkpoint holds, or room for it: tensors in the layout of the flat parameters.
pub(super) struct Snapshot {
    entries: Vec<Entry>,
    modules: Vec<(&'static str, Vec<Variable>)>,
    values: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    average: Option<Tensor>,
}

impl Snapshot {
    /// Copies the state, which may change as soon as this returns.
    pub(super) fn take(state: &TrainingState) -> Self {
        Self::build(state, Tensor::copy)
    }

    /// Room for a state of the same shape.
    pub(super) fn room(state: &TrainingState) -> Self {
        Self::build(state, Tensor::zeros_like)
    }

    fn build(state: &TrainingState, like: impl Fn(&Tensor) -> Tensor) -> Self {
        let like = |tensor: &Tensor| no_grad(|| like(tensor).to_device(tch::Device::Cpu));
        Self {
            entries: state.parameters.entries().to_vec(),
            modules: state.model.modules.iter().map(|module| (module.name, constants(module))).collect(),
            values: like(state.parameters.values()),
            exp_avg: like(state.adamw.exp_avg()),
            exp_avg_sq: like(state.adamw.exp_avg_sq()),
            average: state.average.as_ref().map(|average| like(average.values())),
        }
    }

    /// Copies everything back into the state.
    pub(super) fn apply(&self, state: &TrainingState) {
        let stored = [&self.values, &self.exp_avg, &self.exp_avg_sq].into_iter().chain(&self.average);
        for (mut target, stored) in state.flat().into_iter().zip(stored) {
            no_grad(|| target.copy_(stored));
        }
    }

    /// Name and bytes of every part.
    pub(super) fn parts(&self) -> Result<Vec<(String, Bytes)>, CheckpointingError> {
        let parts = self.named().into_iter();
        parts.map(|(name, variables)| Ok((name, Bytes::from(to_safetensors(&variables)?)))).collect()
    }

    /// Fills this from parts; `read` gets a part's name and returns its bytes.
    pub(super) fn fill(&self, read: impl Fn(&str) -> Result<Bytes, CheckpointingError>) -> Result<(), CheckpointingError> {
        for (name, variables) in self.named() {
            from_safetensors(Path::new(&format!("{name}.safetensors")), &read(&name)?, &variables)?;
        }
        Ok(())
    }

    /// Every part as named views of this snapshot's tensors.
    fn named(&self) -> Vec<(String, Vec<Variable>)> {
        let mut parts = Vec::new();
        for (average, flat) in [(false, Some(&self.values)), (true, self.average.as_ref())] {
            let Some(flat) = flat else { continue };
            for (module, constants) in &self.modules {
                let of_module = self.entries.iter().filter(|entry| entry.group == *module);
                let mut variables: Vec<Variable> = of_module.map(|entry| view(entry.name.clone(), entry, flat)).collect();
                variables.extend(constants.iter().map(Variable::shallow_clone));
                parts.push((weights_part(module, average), variables));
            }
        }
        let moments = [("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq)];
        let moments = moments.into_iter().flat_map(|(moment, flat)| {
            self.entries.iter().map(move |entry| view(format!("{moment}.{}.{}", entry.group, entry.name), entry, flat))
        });
        parts.push((OPTIMIZER.to_owned(), moments.collect()));
        parts
    }
}

fn view(name: String, entry: &Entry, flat: &Tensor) -> Variable {
    Variable { name, tensor: entry.view(flat), trainable: true }
}

/// What the official files hold beside the trained weights.
fn constants(module: &Module) -> Vec<Variable> {
    module.variables.iter().filter(|variable| !variable.trainable).map(Variable::shallow_clone).collect()
}
