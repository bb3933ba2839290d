//! Where things lie in a run's folder.

use std::path::{Path, PathBuf};

/// A run's folder, or the folder of one of its jobs, which is laid out the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The folder at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
