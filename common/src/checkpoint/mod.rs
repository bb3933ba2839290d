//! Checkpoints as bytes: write-once parts, and a manifest that makes them a checkpoint.
//!
//! ```text
//! 0000001000/000002-5f0c93d2a7b41e68/weights.safetensors      step 1000, saved by generation 2
//! 0000001000/000002-5f0c93d2a7b41e68/moments.safetensors
//! 0000001000/000002-5f0c93d2a7b41e68/manifest.json            the last object: the commit point
//! OWNER                                                       the run whose checkpoints these are
//! LATEST                                                      the newest one, for people
//! ```
//!
//! Every attempt to save has a folder of its own, with a random number in its name, so no object is ever written twice and two
//! generations that save the same step cannot mix. What is in force is the newest step whose manifest verifies and whose parts are
//! all there, byte for byte; names only give the order in which to look, and modification times nothing. A crash at any moment leaves
//! the checkpoints that were committed before. [`Attempt`] saves, [`CheckpointStore`] finds, reads and clears away.

mod attempt;
mod catalogue;
mod inspect;
mod known;
#[cfg(test)]
mod mishaps;
mod reader;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use attempt::{Attempt, Fence};
pub use catalogue::Retention;
pub use inspect::{Inspector, Sighting};
pub use reader::PartReader;
pub use store::{CheckpointStore, Listed, Skipped};

use crate::config::BestBy;
use crate::sealed::SealError;
use crate::storage::StorageError;

/// The format that this program writes and reads.
pub const VERSION: u32 = 1;

/// What a checkpoint consists of and which run it belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this manifest, [`VERSION`].
    pub version: u32,
    /// The run; a checkpoint of another run must not be resumed from.
    pub run_id: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Generation of workers that saved it.
    pub generation: u64,
    /// Number of workers that saved it.
    pub world: usize,
    /// Digest of the configuration.
    pub config_hash: String,
    /// Fingerprint of the data set ([`crate::shards::Manifest::fingerprint`]).
    pub data_fingerprint: String,
    /// The parts.
    pub parts: Vec<Part>,
    /// What else a resumed run needs; small.
    pub extra: Value,
    /// What it may be judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
    /// What figure that is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub figure_of: BestBy,
}

fn is_default(by: &BestBy) -> bool {
    *by == BestBy::default()
}

impl Manifest {
    /// A number that is the smaller, the better it is by `by`; none where it was judged by something else.
    #[must_use]
    pub fn cost(&self, by: BestBy) -> Option<f64> {
        self.figure.filter(|_| self.figure_of == by).map(|figure| by.cost(figure))
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }
}

/// One object of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it lies in the checkpoint store.
    pub object: String,
    /// What it is: `weights`, `moments`, ...
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub blake3: String,
}

/// What goes wrong with checkpoints; each names the object.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A manifest that cannot be believed or read.
    #[error("{object}: unusable checkpoint manifest: {reason}")]
    Manifest {
        /// The manifest.
        object: String,
        /// What is wrong with it.
        reason: SealError,
    },
    /// An intact manifest that lies in the wrong folder.
    #[error("{object}: this manifest is that of step {step}, generation {generation}; it was copied or renamed")]
    Misplaced {
        /// The manifest.
        object: String,
        /// Step in the manifest.
        step: u64,
        /// Generation in the manifest.
        generation: u64,
    },
    /// A part whose content is not what was saved.
    #[error("{object}: this part of the checkpoint is damaged: expected blake3 {expected}, found {found}")]
    Corrupt {
        /// The part.
        object: String,
        /// Digest in the manifest.
        expected: String,
        /// Digest of what was read.
        found: String,
    },
    /// A name that no part can have.
    #[error("{name:?} cannot name a part of a checkpoint: use lower-case letters, digits, '-' and '_'")]
    PartName {
        /// The name.
        name: String,
    },
    /// A manifest was to be committed that does not belong to the attempt.
    #[error("{folder}: cannot commit this checkpoint: {reason}")]
    Commit {
        /// Folder of the attempt.
        folder: String,
        /// What does not fit.
        reason: String,
    },
    /// Another writer of the same checkpoint is not done.
    #[error("{object}: writer {writer} of this checkpoint was not done after {} s", .waited.as_secs())]
    Late {
        /// Its number.
        writer: usize,
        /// The note that it should have left.
        object: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Another writer of the same checkpoint could not write its parts.
    #[error("writer {writer} of this checkpoint has failed: {reason}")]
    Writer {
        /// Its number.
        writer: usize,
        /// What it says.
        reason: String,
    },
    /// The checkpoints here are another run's, and each would clear away the other's.
    #[error(
        "{url}: these are the checkpoints of run {found:?}, and this is run {own:?}; give each run a checkpoint.url of its own"
    )]
    Owner {
        /// The checkpoints.
        url: String,
        /// Whose they are.
        found: String,
        /// This run.
        own: String,
    },
    /// A later generation saves into the same place.
    #[error(
        "{folder} was begun by generation {other}, and this is generation {own}: another coordinator has taken over this run, so this \
         checkpoint is not committed"
    )]
    Fenced {
        /// What the other has written.
        folder: String,
        /// This generation.
        own: u64,
        /// The other one.
        other: u64,
    },
    /// The operating system gave no random number.
    #[error("no random number for the name of a checkpoint: {0}")]
    Random(getrandom::Error),
}

impl CheckpointError {
    /// Whether the checkpoint itself is incomplete or damaged, so that an older one is the answer; otherwise (the store is unreachable,
    /// say) falling back would throw away good work.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => matches!(error, StorageError::NotFound { .. } | StorageError::Size { .. }),
            Self::Manifest { .. } | Self::Misplaced { .. } | Self::Corrupt { .. } => true,
            Self::PartName { .. }
            | Self::Commit { .. }
            | Self::Late { .. }
            | Self::Writer { .. }
            | Self::Owner { .. }
            | Self::Fenced { .. }
            | Self::Random(_) => false,
        }
    }

    /// Whether this run has no business here any more, so that going on or starting again would only do harm.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Owner { .. } | Self::Fenced { .. })
    }
}
