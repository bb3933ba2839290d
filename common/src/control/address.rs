//! Where the coordinator listens and the key that proves membership: `coordinator.json`.

use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::ControlError;
use crate::run_dir::replace_file;

/// The secret of one launch, shared through the run folder.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub(super) [u8; 32]);

impl Key {
    /// A fresh key from the system's generator.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            let _ = write!(hex, "{byte:02x}");
        }
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(de::Error::custom("a key has 64 hexadecimal digits"));
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(de::Error::custom)?;
            *byte = u8::from_str_radix(digits, 16).map_err(de::Error::custom)?;
        }
        Ok(Self(bytes))
    }
}

/// Content of `coordinator.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `ip:port` of the coordinator.
    pub address: String,
    /// The launch's key.
    pub key: Key,
    /// The generation that is running.
    pub generation: u64,
    /// Process id of the coordinator.
    pub pid: u32,
}

impl Address {
    /// Writes the file, readable by its owner only, as a whole.
    ///
    /// # Errors
    /// Any failure of the file system, with the path.
    pub fn write(&self, path: &Path) -> Result<(), ControlError> {
        let failed = |problem: String| ControlError::Address { path: path.into(), problem };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.to_string()))?;
        replace_file(path, &text, 0o600).map_err(|error| failed(error.to_string()))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or not what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Self, ControlError> {
        let failed = |problem: String| ControlError::Address { path: path.into(), problem };
        let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
    }
}
