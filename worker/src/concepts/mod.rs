//! What slots are good for once they are found: a library of them sorted into concepts, from which new scenes are composed, and edits of
//! single scenes.

mod editing;
mod election;
mod k_means;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod k_means_tests;
mod library;
mod rows;
mod seeding;
mod writing;

pub use editing::{background, mixed, shares, without};
pub use k_means::{Clustering, Clusters, Points};
pub use library::{Library, LibraryInfo, MadeFrom, Member};
pub use rows::{RowFile, Rows};
pub use writing::{LibraryWriter, clear_parts};

use crate::collectives::CollectiveError;
use std::io;
use std::path::{Path, PathBuf};
use tch::TchError;
use thiserror::Error;

/// Why a library could not be made or read.
#[derive(Debug, Error)]
pub enum ConceptsError {
    /// A file of the library.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no library.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Fewer slots than concepts.
    #[error("{slots} slots cannot be sorted into {clusters} concepts: set concepts.images higher, or concepts.count lower")]
    TooFew {
        /// Slots that there are.
        slots: u64,
        /// Concepts that are asked for.
        clusters: usize,
    },
    /// Slots that are no numbers.
    #[error("the model finds slots that are not finite; has its training diverged?")]
    NotFinite,
    /// The workers could not sum.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// libtorch.
    #[error(transparent)]
    Tensor(#[from] TchError),
    /// Memory that libtorch could not give.
    #[error(transparent)]
    Memory(#[from] torch_shim::ShimError),
}

impl ConceptsError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn format(path: &Path, reason: impl ToString) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.to_string() }
    }
}
