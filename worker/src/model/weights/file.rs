//! One safetensors file: its tensors into the variables of a network, and back.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tch::{Device, Kind, Tensor};

use super::names::Naming;
use super::{Differences, WEIGHTS_FILE, WeightsError};
use crate::model::Variable;

/// The variables as one safetensors file, f32.
///
/// # Errors
/// When a tensor's values cannot be copied to the host.
pub fn to_safetensors(variables: &[Variable]) -> Result<Vec<u8>, WeightsError> {
    let failed = |reason: String| WeightsError::Format { file: WEIGHTS_FILE.into(), reason };
    let mut stored = Vec::with_capacity(variables.len());
    for Variable { name, tensor, .. } in variables {
        let shape = tensor.size().iter().map(|&side| side.unsigned_abs() as usize).collect();
        let values = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        // Safetensors is little-endian, as is every machine that libtorch runs on.
        let mut bytes = vec![0; values.numel() * Kind::Float.elt_size_in_bytes()];
        values.f_copy_data_u8(&mut bytes, values.numel()).map_err(|e| failed(format!("{name}: {e}")))?;
        stored.push((name.clone(), shape, bytes));
    }
    let mut views = Vec::with_capacity(stored.len());
    for (name, shape, bytes) in &stored {
        let shape: &Vec<usize> = shape;
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| failed(format!("{name}: {e}")))?;
        views.push((name, view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))
}

/// Copies the tensors of a safetensors file into the variables; `file` is for messages. Constants are recomputed, never loaded.
///
/// # Errors
/// When the bytes are no safetensors file or hold another network; then no variable has changed.
pub fn from_safetensors(file: &Path, bytes: &[u8], variables: &[Variable]) -> Result<(), WeightsError> {
    Stored::read(&file.display().to_string(), bytes, variables)?.load(variables)
}

/// The tensors of a file, found to be those of a network.
pub(super) struct Stored<'a> {
    file: String,
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Stored<'a> {
    /// Reads the file and compares it with the variables.
    pub(super) fn read(file: &str, bytes: &'a [u8], variables: &[Variable]) -> Result<Self, WeightsError> {
        let format = |reason: String| WeightsError::Format { file: file.to_owned(), reason };
        let stored = SafeTensors::deserialize(bytes).map_err(|e| format(format!("not a whole safetensors file ({e})")))?;
        let naming = Naming::of(stored.names().iter().map(AsRef::as_ref));
        let tensors: BTreeMap<String, TensorView<'_>> =
            stored.iter().filter_map(|(name, view)| Some((naming.present(name)?, view))).collect();
        let shapes = tensors.iter().map(|(name, view)| (name.as_str(), signed(view.shape()))).collect();
        let differences = compare(&shapes, variables);
        if !differences.is_empty() {
            return Err(WeightsError::Differ { file: file.to_owned(), differences });
        }
        let loaded =
            variables.iter().filter(|variable| variable.trainable).filter_map(|variable| tensors.get_key_value(&variable.name));
        match loaded.into_iter().find(|(_, view)| kind(view.dtype()).is_none()) {
            Some((name, view)) => Err(format(format!("{name}: {:?} values", view.dtype()))),
            None => Ok(Self { file: file.to_owned(), tensors }),
        }
    }

    /// Copies the tensors into the variables that they were compared with.
    pub(super) fn load(&self, variables: &[Variable]) -> Result<(), WeightsError> {
        let _guard = tch::no_grad_guard();
        for variable in variables.iter().filter(|variable| variable.trainable) {
            let Some(view) = self.tensors.get(&variable.name) else { continue };
            let Some(kind) = kind(view.dtype()) else { continue };
            let values = Tensor::f_from_data_size(view.data(), &variable.tensor.size(), kind);
            let failed = |e| WeightsError::Format { file: self.file.clone(), reason: format!("{}: {e}", variable.name) };
            variable.tensor.shallow_clone().copy_(&values.map_err(failed)?);
        }
        Ok(())
    }
}

/// Compares stored shapes with a network's variables. A stored 1x1 convolution passes for a linear layer.
pub(super) fn compare(stored: &BTreeMap<&str, Vec<i64>>, variables: &[Variable]) -> Differences {
    let mut differences = Differences::default();
    let known: BTreeMap<&str, &Variable> = variables.iter().map(|variable| (variable.name.as_str(), variable)).collect();
    for variable in variables.iter().filter(|variable| variable.trainable) {
        let expected = variable.tensor.size();
        match stored.get(variable.name.as_str()) {
            None => differences.missing.push(variable.name.clone()),
            Some(found) if *found != expected && *found != [&expected[..], &[1, 1]].concat() => {
                differences.misshapen.push((variable.name.clone(), expected, found.clone()));
            }
            Some(_) => {}
        }
    }
    differences.extra = stored.keys().filter(|name| !known.contains_key(*name)).map(|name| (*name).to_owned()).collect();
    differences
}

pub(super) fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&side| side as i64).collect()
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}
