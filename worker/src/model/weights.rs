//! Weights as safetensors under official names, and the folder layout of diffusers: `config.json` beside
//! `diffusion_pytorch_model.safetensors`.
//!
//! Everything that differs is listed before anything is loaded.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::Variable;

/// Name of the weights file in a folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";
/// Name of the description in a folder.
pub const CONFIG_FILE: &str = "config.json";

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is nothing in the folder.
    #[error("{folder}: no weights here (config.json is missing); run the autoencoder job, or set autoencoder.weights to a folder that \
             holds them", folder = folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The file system refused.
    #[error("{file}: {source}", file = file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file is not what its name says.
    #[error("{file}: {reason}", file = file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds another network.
    #[error("{file}: the weights are not those of the configured network: {differences}", file = file.display())]
    Differ {
        /// The file.
        file: PathBuf,
        /// How it differs.
        differences: Differences,
    },
}

impl WeightsError {
    /// Whether the input is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// How a set of stored tensors differs from a network's variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Variables that are not stored.
    pub missing: Vec<String>,
    /// Stored tensors that the network does not have.
    pub extra: Vec<String>,
    /// Name, the network's shape, the stored shape.
    pub misshapen: Vec<(String, Vec<i64>, Vec<i64>)>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshapen: Vec<String> =
            self.misshapen.iter().map(|(name, expected, found)| format!("{name} {found:?} instead of {expected:?}")).collect();
        let lists = [("missing", &self.missing), ("unknown", &self.extra), ("misshapen", &misshapen)];
        let parts: Vec<String> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| {
                let more = if names.len() > 3 { ", …" } else { "" };
                format!("{} {what} ({}{more})", names.len(), names[..names.len().min(3)].join(", "))
            })
            .collect();
        f.write_str(&parts.join("; "))
    }
}

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
    let format = |reason: String| WeightsError::Format { file: file.into(), reason };
    let stored = SafeTensors::deserialize(bytes).map_err(|e| format(format!("not a whole safetensors file ({e})")))?;
    let stored: BTreeMap<String, TensorView<'_>> = stored.iter().map(|(name, view)| (modern_name(name), view)).collect();
    let shapes = stored.iter().map(|(name, view)| (name.as_str(), signed(view.shape()))).collect();
    let differences = compare(&shapes, variables);
    if !differences.is_empty() {
        return Err(WeightsError::Differ { file: file.into(), differences });
    }
    let _guard = tch::no_grad_guard();
    for variable in variables.iter().filter(|variable| variable.trainable) {
        let Some(view) = stored.get(&variable.name) else { continue };
        let kind = kind(view.dtype()).ok_or_else(|| format(format!("{}: {:?} values", variable.name, view.dtype())))?;
        let values = Tensor::f_from_data_size(view.data(), &variable.tensor.size(), kind);
        let values = values.map_err(|e| format(format!("{}: {e}", variable.name)))?;
        variable.tensor.shallow_clone().copy_(&values.to_device(Device::Cpu));
    }
    Ok(())
}

/// Compares stored shapes with a network's variables. A stored 1x1 convolution passes for a linear layer.
fn compare(stored: &BTreeMap<&str, Vec<i64>>, variables: &[Variable]) -> Differences {
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

/// The present name of a tensor of older files, in which the autoencoder's attention was named otherwise.
fn modern_name(name: &str) -> String {
    let renamed = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]
        .into_iter()
        .map(|(old, new)| (format!("mid_block.attentions.0.{old}."), format!("mid_block.attentions.0.{new}.")))
        .find(|(old, _)| name.contains(old.as_str()));
    renamed.map_or_else(|| name.to_owned(), |(old, new)| name.replace(&old, &new))
}

fn signed(shape: &[usize]) -> Vec<i64> {
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

/// Loads the weights of a folder.
///
/// # Errors
/// When the file is absent, damaged or of another network.
pub fn load_folder(folder: &Path, variables: &[Variable]) -> Result<(), WeightsError> {
    let file = folder.join(WEIGHTS_FILE);
    let bytes = fs::read(&file).map_err(|source| WeightsError::Io { file: file.clone(), source })?;
    from_safetensors(&file, &bytes, variables)
}

/// BLAKE3 digest of a folder's weights file, in hexadecimal: which weights these are.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(folder: &Path) -> Result<String, WeightsError> {
    let file = folder.join(WEIGHTS_FILE);
    let bytes = fs::read(&file).map_err(|source| WeightsError::Io { file, source })?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// The description of a folder.
///
/// # Errors
/// When the file is absent or no JSON.
pub fn read_config(folder: &Path) -> Result<Value, WeightsError> {
    let file = folder.join(CONFIG_FILE);
    let bytes = fs::read(&file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => WeightsError::Missing { folder: folder.into() },
        _ => WeightsError::Io { file: file.clone(), source },
    })?;
    serde_json::from_slice(&bytes).map_err(|e| WeightsError::Format { file, reason: e.to_string() })
}

/// Writes a folder: the weights, then the description, each atomically, so that a description means whole weights.
///
/// # Errors
/// When a file cannot be written.
pub fn save_folder(folder: &Path, description: &Value, variables: &[Variable]) -> Result<(), WeightsError> {
    fs::create_dir_all(folder).map_err(|source| WeightsError::Io { file: folder.into(), source })?;
    replace(&folder.join(WEIGHTS_FILE), &to_safetensors(variables)?)?;
    replace(&folder.join(CONFIG_FILE), format!("{description:#}\n").as_bytes())
}

/// Replaces a file by way of a temporary one beside it.
fn replace(file: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let temporary = file.with_extension("partial");
    let write = || {
        let mut handle = fs::File::create(&temporary)?;
        handle.write_all(bytes)?;
        handle.sync_all()?;
        fs::rename(&temporary, file)
    };
    write().map_err(|source| WeightsError::Io { file: file.into(), source })
}
