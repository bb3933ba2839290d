//! Weights in and out: safetensors under official names, from a folder in diffusers' layout or from one file, anywhere.
//!
//! ```text
//! file     tensors of a safetensors file <-> variables of a network
//! incoming the same for a file that comes in pieces
//! names    what older and original releases call the tensors
//! source   finding a file at a URL, verifying it, and writing a folder
//! official the checkpoints of the official implementation
//! ```
//!
//! Everything that differs is listed before anything is loaded.

mod file;
mod incoming;
mod names;
mod official;
mod source;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use file::{from_safetensors, to_safetensors};
pub use incoming::Incoming;
pub use official::load_official;
pub use source::{CONFIG_FILE, Found, WEIGHTS_FILE, find, save_folder};

use std::{fmt, io, path::PathBuf};

use common::storage::StorageError;

/// Names of each kind that a list of differences shows.
const SHOWN: usize = 10;

/// Why weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is nothing in the folder.
    #[error("{folder}: no weights here ({file} is missing); {advice}")]
    Missing {
        /// The folder.
        folder: String,
        /// The file that should be in it.
        file: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The file is not there.
    #[error("{file}: no such file; {advice}")]
    NoFile {
        /// The file.
        file: String,
        /// What to do.
        advice: &'static str,
    },
    /// The store refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file system refused.
    #[error("{file}: {source}", file = file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file is not what its name says.
    #[error("{file}: {reason}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is another one than the configuration asks for.
    #[error("{file}: expected sha256 {expected} ({key}), found {found}")]
    Digest {
        /// The file.
        file: String,
        /// The key that names the digest.
        key: &'static str,
        /// The digest in the configuration.
        expected: String,
        /// That of the file.
        found: String,
    },
    /// The file holds another network.
    #[error("{file}: the weights are not those of the configured network: {differences}")]
    Differ {
        /// The file.
        file: String,
        /// How it differs.
        differences: Differences,
    },
}

fn format_error(file: &str, reason: impl Into<String>) -> WeightsError {
    WeightsError::Format { file: file.to_owned(), reason: reason.into() }
}

impl WeightsError {
    /// Whether the input is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Io { .. } => false,
            Self::Storage(error) => !matches!(error, StorageError::Backend { .. }),
            Self::Missing { .. } | Self::NoFile { .. } | Self::Format { .. } | Self::Digest { .. } | Self::Differ { .. } => true,
        }
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
                let more = if names.len() > SHOWN { ", …" } else { "" };
                format!("{} {what} ({}{more})", names.len(), names[..names.len().min(SHOWN)].join(", "))
            })
            .collect();
        f.write_str(&parts.join("; "))
    }
}
