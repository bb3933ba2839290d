//! The data set format: shards of rows, and a manifest that vouches for every byte of them.
//!
//! ```text
//! dataset.json                          the manifest, written last: without it there is no data set
//! 00000-<digest>.safetensors            shard 0, the columns that training reads: one tensor [rows, ..shape] per column
//! 00000-<digest>.cold.safetensors       shard 0, the other columns (images, masks)
//! 00001-...
//! 00007.entry.json                      only while a data set is being written: shard 7 is finished
//! ```
//!
//! Any tool opens a shard with stock safetensors. The bytes of row i are found by arithmetic, so a column can be skipped and a block
//! of rows is one range read. Rows that are encoded (PNG, JPEG, WebP) differ in size: they lie in `NAME.bytes` u8 [total], and
//! `NAME.offsets` u64 [rows + 1] says where each begins. The manifest holds a CRC-32C per block of rows and a BLAKE3 per file; a block is verified before a row of
//! it is handed out. Shard files are named by content and never change. [`ShardWriter`] writes, [`Dataset`] reads.

mod ahead;
mod cache;
mod dataset;
mod decoded;
#[cfg(test)]
mod encoded_tests;
mod fetch;
mod labels;
mod layout;
mod manifest;
mod metadata;
mod node_cache;
mod presence;
#[cfg(test)]
mod resume_tests;
mod schema;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use ahead::ReadAhead;
pub use dataset::Dataset;
pub use decoded::DecodedRows;
pub use fetch::Traffic;
pub use labels::{LabelKind, NoLabels, ObjectLabel, object_labels};
pub use layout::{OwnedRows, Rows};
pub use manifest::{MANIFEST, Manifest, ShardEntry, ShardFile, StoredColumn, VERSION, existing};
pub use metadata::{NoScalingFactor, ORIGIN, SCALING_FACTOR, scaling_factor};
pub use node_cache::{Group as NodeGroup, NodeCache, NodeCacheError};
pub use schema::{Column, DType, Encoding, Schema};
pub use verify::{DamagedBlock, Verdict, verify_file};
pub use writer::ShardWriter;

use crate::sealed::SealError;
use crate::storage::StorageError;

/// What goes wrong with data sets; each names the file or the data set, and what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A schema that no data set can have.
    #[error("unusable schema: {reason}")]
    Schema {
        /// What is wrong.
        reason: String,
    },
    /// There is no data set.
    #[error("{url}: no data set here (dataset.json is missing); run the job that writes it")]
    Missing {
        /// Where it should be.
        url: String,
    },
    /// A data set whose writer was interrupted.
    #[error(
        "{url}: the data set is half-written ({finished} shards are finished, dataset.json is missing); run the job that writes it \
         again, it goes on where it stopped"
    )]
    HalfWritten {
        /// Where it is.
        url: String,
        /// Shards that are finished.
        finished: usize,
    },
    /// The manifest cannot be believed or read.
    #[error("{object}: unusable data set manifest: {reason}")]
    Manifest {
        /// The manifest.
        object: String,
        /// What is wrong with it.
        reason: SealError,
    },
    /// The manifest is intact but contradicts itself.
    #[error("{object}: inconsistent data set manifest: {reason}")]
    Inconsistent {
        /// The manifest.
        object: String,
        /// The contradiction.
        reason: String,
    },
    /// A file of the data set is gone.
    #[error("{object}: this file of the data set is missing; write the data set again or restore the file")]
    FileMissing {
        /// The file.
        object: String,
    },
    /// A file of the data set has another size than its manifest says.
    #[error(
        "{object}: expected {expected} bytes, found {found}; the file is damaged, write the data set again or restore the file"
    )]
    FileSize {
        /// The file.
        object: String,
        /// Its size in the manifest.
        expected: u64,
        /// Its size.
        found: u64,
    },
    /// A block is not what was written, even when read a second time.
    #[error(
        "{object}: block {block} of column {column} at offset {offset} is damaged: expected crc32c {expected:08x}, found {found:08x} twice; \
         write the data set again or restore the file"
    )]
    Corrupt {
        /// The file.
        object: String,
        /// The column.
        column: String,
        /// Index of the block in the column of this shard.
        block: u64,
        /// Where the block begins in the file.
        offset: u64,
        /// Digest in the manifest.
        expected: u32,
        /// Digest of what was read.
        found: u32,
    },
    /// A column that the data set does not have.
    #[error("{url}: no column {column}; this data set has {known}")]
    Column {
        /// The data set.
        url: String,
        /// The column asked for.
        column: String,
        /// The columns there are.
        known: String,
    },
    /// Rows of a column were asked for in the way that does not suit it.
    #[error("{url}: the rows of column {column} are {found}")]
    Encoded {
        /// The data set.
        url: String,
        /// The column.
        column: String,
        /// How its rows lie.
        found: String,
    },
    /// A row beyond the end.
    #[error("{url}: no row {row}; this data set has {rows} rows")]
    Row {
        /// The data set.
        url: String,
        /// The row asked for.
        row: u64,
        /// Rows there are.
        rows: u64,
    },
    /// What a writer passed does not fit the schema.
    #[error("{url}: shard {shard}: {reason}")]
    Rows {
        /// The data set.
        url: String,
        /// The shard.
        shard: u32,
        /// What does not fit.
        reason: String,
    },
    /// The place is taken by a data set of other content.
    #[error(
        "{url}: already holds {state} data set with another {difference}; choose another place, or delete that folder to replace it"
    )]
    Occupied {
        /// The place.
        url: String,
        /// Complete or unfinished.
        state: &'static str,
        /// What differs.
        difference: String,
    },
    /// A data set was to be committed before all of its shards are there.
    #[error("{url}: cannot complete the data set, {missing} of {shards} shards are not finished (the first is shard {first})")]
    Unfinished {
        /// The data set.
        url: String,
        /// Shards that are missing.
        missing: usize,
        /// Shards that the data set has.
        shards: u32,
        /// The first one that is missing.
        first: u32,
    },
}
