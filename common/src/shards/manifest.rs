//! The manifest: which shards a data set has, where their columns and blocks lie, and the digests that vouch for them.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ShardError;
use super::schema::{Column, Part, Schema};
use crate::sealed;
use crate::storage::Store;

/// Name of the manifest in the data set's folder.
pub const MANIFEST: &str = "dataset.json";
/// The newest format of a manifest that this program reads and writes. 2 came with encoded columns; a data set without them is
/// written as version 1, which older programs read too.
pub const VERSION: u32 = 2;

/// Bytes of an offset.
pub(super) const OFFSET_BYTES: u64 = 8;

/// Everything about a data set but its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this manifest, [`VERSION`] or less.
    pub version: u32,
    /// Digest of everything that the writer was asked for; tells whether a data set is the one that a job would write.
    pub settings: String,
    /// The columns.
    pub schema: Schema,
    /// Rows of every shard but the last, which may have fewer.
    pub rows_per_shard: u64,
    /// What the data set is and how it came about; a JSON object.
    pub metadata: Value,
    /// The shards by index.
    pub shards: Vec<ShardEntry>,
    #[serde(skip)]
    pub(super) fingerprint: String,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its number in the data set.
    pub index: u32,
    /// Its rows.
    pub rows: u64,
    /// Its files: the hot one, then the cold one, each only when it has columns.
    pub files: Vec<ShardFile>,
}

/// One file of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFile {
    /// Object name in the data set's folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Digest of the whole file.
    pub blake3: String,
    /// Its tensors in their order on disk.
    pub columns: Vec<StoredColumn>,
}

/// One tensor of one shard: a column, or the offsets or the bytes of an encoded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    /// The tensor: `NAME`, `NAME.offsets` or `NAME.bytes` of column NAME.
    pub name: String,
    /// Where its first row begins in the file.
    pub offset: u64,
    /// Rows per block; the last block may have fewer. Offsets are a single block.
    pub rows_per_block: u64,
    /// CRC-32C of every block.
    pub crc32c: Vec<u32>,
    /// Where every block ends, counted from `offset`: only where rows differ in size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_ends: Vec<u64>,
}

impl StoredColumn {
    /// The bytes of a block in the file, when the tensor is `part` of `column` and the shard has `rows` rows.
    pub(super) fn block(&self, part: Part, column: &Column, rows: u64, block: u64) -> Range<u64> {
        let (start, end) = match part {
            Part::Rows => {
                let row = |number: u64| number.min(rows) * column.row_bytes() as u64;
                (row(block * self.rows_per_block), row((block + 1) * self.rows_per_block))
            }
            Part::Offsets => (0, (rows + 1) * OFFSET_BYTES),
            Part::Bytes => {
                let end = |block: u64| self.block_ends[block as usize];
                (if block == 0 { 0 } else { end(block - 1) }, end(block))
            }
        };
        self.offset + start..self.offset + end
    }

    /// Whether blocks and offsets agree with the tensor's place, so that [`block`](Self::block) can be relied on.
    fn fits(&self, part: Part, column: &Column, rows: u64, file_bytes: u64) -> bool {
        let blocks = rows.checked_div(self.rows_per_block).map(|_| rows.div_ceil(self.rows_per_block));
        let (blocks, bytes) = match part {
            Part::Rows => (blocks, rows.checked_mul(column.row_bytes() as u64)),
            Part::Offsets => (Some(1), rows.checked_add(1).and_then(|entries| entries.checked_mul(OFFSET_BYTES))),
            Part::Bytes => {
                let ordered = self.block_ends.is_sorted() && self.block_ends.len() == self.crc32c.len();
                (blocks.filter(|_| ordered), self.block_ends.last().copied())
            }
        };
        let end = bytes.and_then(|bytes| bytes.checked_add(self.offset));
        blocks == Some(self.crc32c.len() as u64) && end.is_some_and(|end| end <= file_bytes)
    }
}

impl Manifest {
    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.rows).sum()
    }

    /// Rows of each shard, as [`SampleOrder`](crate::sampler::SampleOrder) takes them.
    pub fn shard_rows(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.rows).collect()
    }

    /// Digest of the manifest, and so of every byte of the data set. Checkpoints record it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Writes the manifest: from here on the data set exists.
    pub(super) async fn write(&mut self, store: &Store) -> Result<(), ShardError> {
        let object = || store.name_url(MANIFEST);
        self.check(&object())?;
        let (document, digest) = sealed::seal(self).map_err(|reason| ShardError::Manifest { object: object(), reason })?;
        store.put(MANIFEST, document).await?;
        self.fingerprint = digest;
        Ok(())
    }

    /// Whether shards, blocks and offsets agree with schema and sizes, so that readers can rely on plain arithmetic.
    fn check(&self, object: &str) -> Result<(), ShardError> {
        self.schema.check()?;
        let refused = |reason: String| Err(ShardError::Inconsistent { object: object.to_owned(), reason });
        for (index, shard) in self.shards.iter().enumerate() {
            let last = index + 1 == self.shards.len();
            let full = shard.rows == self.rows_per_shard || (last && shard.rows < self.rows_per_shard);
            if shard.index as usize != index || shard.rows == 0 || !full {
                return refused(format!("entry {index} describes shard {} with {} rows", shard.index, shard.rows));
            }
            if let Some(problem) = problem_of(&self.schema, shard) {
                return refused(format!("shard {index}: {problem}"));
            }
        }
        Ok(())
    }
}

/// What contradicts the schema in a shard's entry.
pub(super) fn problem_of(schema: &Schema, shard: &ShardEntry) -> Option<String> {
    let expected = schema.files();
    if expected.len() != shard.files.len() {
        return Some(format!("expected {} files, found {}", expected.len(), shard.files.len()));
    }
    for (expected, file) in expected.iter().zip(&shard.files) {
        let tensors = expected.tensors.iter().map(|&(index, part)| (&schema.columns[index], part));
        if !tensors.clone().map(|(column, part)| part.name(column)).eq(file.columns.iter().map(|stored| stored.name.clone())) {
            return Some(format!("file {} does not have the columns of the schema", file.name));
        }
        for ((column, part), stored) in tensors.zip(&file.columns) {
            if !stored.fits(part, column, shard.rows, file.bytes) {
                return Some(format!("column {} does not fit into {}", stored.name, file.name));
            }
        }
    }
    None
}

/// The data set that is complete at `store`, if there is one; an error when there is a manifest that cannot be used.
pub async fn existing(store: &Store) -> Result<Option<Manifest>, ShardError> {
    let document = match store.get(MANIFEST).await {
        Ok(document) => document,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let object = store.name_url(MANIFEST);
    match sealed::open::<Manifest>(&document, 1..=VERSION) {
        Ok((mut manifest, fingerprint)) => {
            manifest.fingerprint = fingerprint;
            manifest.check(&object).map(|()| Some(manifest))
        }
        Err(reason) => Err(ShardError::Manifest { object, reason }),
    }
}
