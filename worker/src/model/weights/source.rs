//! Where weights lie: a folder in diffusers' layout, `config.json` beside `diffusion_pytorch_model.safetensors`, or one file; on a local
//! disk or in an object store.

use std::{fs, io::Write, path::Path};

use bytes::Bytes;
use common::storage::{StorageError, Store};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::WeightsError;
use super::file::to_safetensors;
use crate::model::Variable;

/// Name of the weights file in a folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";
/// Name of the description in a folder.
pub const CONFIG_FILE: &str = "config.json";

/// A weights file that was found, whole in memory.
#[derive(Debug)]
pub struct Found {
    /// Where it lies.
    pub file: String,
    /// Its content.
    pub bytes: Bytes,
    /// The description beside it; `Null` when the URL is that of a file.
    pub description: Value,
}

/// Reads the weights at `url`: of a folder, or one file that ends in `.safetensors`. `advice` says what to do when there are none.
///
/// # Errors
/// A URL that cannot be used, a file that is absent or cannot be read, a description that is no JSON.
pub fn find(url: &str, advice: &'static str, runtime: &Handle) -> Result<Found, WeightsError> {
    if let Some(name) = url.rsplit('/').next().filter(|name| name.ends_with(".safetensors")) {
        let folder = url.strip_suffix(name).filter(|folder| !folder.is_empty()).unwrap_or(".");
        let store = Store::open(folder)?;
        let file = store.name_url(name);
        let bytes = match runtime.block_on(store.get(name)) {
            Err(StorageError::NotFound { .. }) => return Err(WeightsError::NoFile { file, advice }),
            found => found?,
        };
        return Ok(Found { file, bytes, description: Value::Null });
    }
    let store = Store::open(url)?;
    let get = |file: &'static str| match runtime.block_on(store.get(file)) {
        Err(StorageError::NotFound { .. }) => Err(WeightsError::Missing { folder: store.url().to_owned(), file, advice }),
        found => Ok(found?),
    };
    let description = serde_json::from_slice(&get(CONFIG_FILE)?);
    let description = description.map_err(|e| WeightsError::Format { file: store.name_url(CONFIG_FILE), reason: e.to_string() })?;
    Ok(Found { file: store.name_url(WEIGHTS_FILE), bytes: get(WEIGHTS_FILE)?, description })
}

impl Found {
    /// SHA-256 of the content, in hexadecimal.
    pub fn sha256(&self) -> String {
        Sha256::digest(&self.bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// That this is the file with the given SHA-256, which the configuration has under `key`.
    ///
    /// # Errors
    /// Another file.
    pub fn check_sha256(&self, key: &'static str, expected: &str) -> Result<(), WeightsError> {
        let found = self.sha256();
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(WeightsError::Digest { file: self.file.clone(), key, expected: expected.to_lowercase(), found })
    }
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
