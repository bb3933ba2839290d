//! A stand-in for NCCL, for tests on machines without a GPU: this crate says where the library is, and has cargo build it.
//!
//! A test crate takes `nccl-stand-in` as a dev-dependency and gives the path of the library to the processes that it starts:
//!
//! ```no_run
//! let mut worker = std::process::Command::new("worker");
//! worker.env("NCCL_LIB", nccl_stand_in::library_path()?);
//! # Ok::<(), nccl_stand_in::NotBuilt>(())
//! ```
//!
//! What the library does, and which failures it can be told to act out, is on top of `library/src/lib.rs`.
//!
//! # How cargo builds it
//!
//! The library is a package of its own, `nccl-stand-in-library`, of crate type `cdylib` and nothing else. A dependency of that type is
//! built like any other but linked with nothing, and as it is a path dependency its file has no hash in its name: it lies in
//! `target/release/deps`, where the test binaries lie too. Were it an `rlib` as well, a test that is linked with libtorch would export
//! the stand-in's functions, and libtorch itself would call them instead of NCCL's.

use std::path::{Path, PathBuf};

/// The library's file.
const FILE: &str = "libnccl_stand_in_library.so";

/// The library is not where cargo puts it.
#[derive(Debug, thiserror::Error)]
#[error("{FILE} is not in {}; run this by cargo, with nccl-stand-in as a dependency", folders(.looked))]
pub struct NotBuilt {
    /// The folders that were looked into.
    pub looked: Vec<PathBuf>,
}

/// The absolute path of the stand-in library, for a test, example, benchmark or binary in cargo's target folder.
///
/// # Errors
/// The process's file lies elsewhere, or its package does not depend on this crate.
pub fn library_path() -> Result<PathBuf, NotBuilt> {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new("/"));
    // From target/release/deps (tests), target/release (binaries) and target/release/examples.
    let looked: Vec<PathBuf> =
        [Some(folder.into()), Some(folder.join("deps")), folder.parent().map(|profile| profile.join("deps"))]
            .into_iter()
            .flatten()
            .collect();
    let found = looked.iter().map(|folder| folder.join(FILE)).find(|path| path.is_file());
    found.ok_or(NotBuilt { looked })
}

fn folders(looked: &[PathBuf]) -> String {
    looked.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn the_library_lies_beside_the_tests() {
        let path = super::library_path().unwrap();
        assert!(path.is_absolute() && path.parent() == std::env::current_exe().unwrap().parent(), "{}", path.display());
    }
}
