//! The manifest: which shards a data set has, where their columns and blocks lie, and the digests that vouch for them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ShardError;
use super::schema::Schema;
use crate::sealed;
use crate::storage::Store;

/// Name of the manifest in the data set's folder.
pub const MANIFEST: &str = "dataset.json";
/// The format that this program writes and reads.
pub const VERSION: u32 = 1;

/// Everything about a data set but its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this manifest, [`VERSION`].
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
    /// Its columns in their order on disk.
    pub columns: Vec<StoredColumn>,
}

/// One column of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    /// The column.
    pub name: String,
    /// Where its first row begins in the file.
    pub offset: u64,
    /// Rows per block; the last block may have fewer.
    pub rows_per_block: u64,
    /// CRC-32C of every block.
    pub crc32c: Vec<u32>,
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
    for ((_, indices), file) in expected.iter().zip(&shard.files) {
        let names = indices.iter().map(|&index| &schema.columns[index].name);
        if !names.eq(file.columns.iter().map(|column| &column.name)) {
            return Some(format!("file {} does not have the columns of the schema", file.name));
        }
        for (&index, stored) in indices.iter().zip(&file.columns) {
            let column = &schema.columns[index];
            let blocks = shard.rows.checked_div(stored.rows_per_block).map(|_| shard.rows.div_ceil(stored.rows_per_block));
            let end = shard.rows.checked_mul(column.row_bytes() as u64).and_then(|bytes| bytes.checked_add(stored.offset));
            if blocks != Some(stored.crc32c.len() as u64) || end.is_none_or(|end| end > file.bytes) {
                return Some(format!("column {} does not fit into {}", column.name, file.name));
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
    match sealed::open::<Manifest>(&document, VERSION) {
        Ok((mut manifest, fingerprint)) => {
            manifest.fingerprint = fingerprint;
            manifest.check(&object).map(|()| Some(manifest))
        }
        Err(reason) => Err(ShardError::Manifest { object, reason }),
    }
}
