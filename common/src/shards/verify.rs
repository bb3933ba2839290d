//! Every byte of a data set, read and compared with its manifest, whatever the state of its files.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::manifest::{Manifest, ShardEntry, ShardFile};
use crate::storage::{StorageError, Store};

/// Bytes of one read, and reads at the same time.
const PIECE: u64 = 8 << 20;
const READS: usize = 4;

/// What became of a file of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Every byte is what was written.
    Whole,
    /// It is gone.
    Missing,
    /// It has another size.
    Resized {
        /// Its size.
        found: u64,
    },
    /// Some bytes are others.
    Damaged {
        /// The blocks that are; none if it is the header.
        blocks: Vec<DamagedBlock>,
    },
}

/// A block that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedBlock {
    /// The tensor: a column, or offsets or bytes of one.
    pub tensor: String,
    /// Its number in this shard.
    pub block: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// The rows of the data set whose bytes are in it; all of the shard where it holds offsets.
    pub rows: std::ops::Range<u64>,
}

/// Reads file number `file` of `shard` of the data set at `store`. `seen` is told how many bytes came since it was told last.
///
/// # Errors
/// The store fails; that a file is not what it should be is no error.
pub async fn verify_file(
    store: &Store,
    manifest: &Manifest,
    (shard, file): (&ShardEntry, usize),
    mut seen: impl FnMut(u64),
) -> Result<Verdict, StorageError> {
    let stored = &shard.files[file];
    match store.size(&stored.name).await? {
        None => return Ok(Verdict::Missing),
        Some(found) if found != stored.bytes => return Ok(Verdict::Resized { found }),
        Some(_) => {}
    }
    let mut digest = blake3::Hasher::new();
    let pieces = (0..stored.bytes.div_ceil(PIECE)).map(|piece| piece * PIECE..((piece + 1) * PIECE).min(stored.bytes));
    let mut pieces = futures::stream::iter(pieces.map(|range| store.get_range(&stored.name, range))).buffered(READS);
    while let Some(piece) = pieces.try_next().await? {
        digest.update(&piece);
        seen(piece.len() as u64);
    }
    if digest.finalize().to_hex().as_str() == stored.blake3 {
        return Ok(Verdict::Whole);
    }
    Ok(Verdict::Damaged { blocks: damaged_blocks(store, manifest, (shard, file), stored).await? })
}

/// Which blocks of a file are to blame.
async fn damaged_blocks(
    store: &Store,
    manifest: &Manifest,
    (shard, file): (&ShardEntry, usize),
    stored: &ShardFile,
) -> Result<Vec<DamagedBlock>, StorageError> {
    let first = u64::from(shard.index) * manifest.rows_per_shard;
    let Some(contents) = manifest.schema.files().into_iter().nth(file) else { return Ok(Vec::new()) };
    let mut damaged = Vec::new();
    for ((column, part), tensor) in contents.tensors.into_iter().zip(&stored.columns) {
        for (block, &expected) in (0..).zip(&tensor.crc32c) {
            let range = tensor.block(part, &manifest.schema.columns[column], shard.rows, block);
            let found: Bytes = store.get_range(&stored.name, range.clone()).await?;
            if crc32c::crc32c(&found) != expected {
                let row = |block: u64| first + (block * tensor.rows_per_block).min(shard.rows);
                let rows = row(block)..row(block + 1);
                damaged.push(DamagedBlock { tensor: tensor.name.clone(), block, offset: range.start, rows });
            }
        }
    }
    Ok(damaged)
}
