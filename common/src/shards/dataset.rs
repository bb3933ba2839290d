//! Reading: rows of any column in any order, each block verified before a row of it is handed out.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::cache::{BlockCache, BlockKey};
use super::manifest::{Manifest, ShardFile, StoredColumn, existing};
use super::writer::finished_indices;
use super::{Column, ShardError};
use crate::storage::Store;

/// Blocks fetched at the same time for one call.
const FETCHES: usize = 8;

/// A complete data set, open for reading. All methods take `&self` and may be called concurrently.
pub struct Dataset {
    store: Store,
    manifest: Manifest,
    /// First row of every shard.
    starts: Vec<u64>,
    cache: BlockCache,
}

/// Where a column lies: the same file and place in every shard.
struct Place<'a> {
    column: &'a Column,
    file: usize,
    stored: usize,
}

impl Dataset {
    /// Opens the data set at `store` with a cache of `cache_bytes` for verified blocks. Manifest, presence and size of all files are
    /// checked here; digests are checked as blocks are read. Random order over a window of shards fetches every block once only if
    /// the window's blocks fit into the cache.
    pub async fn open(store: Store, cache_bytes: usize) -> Result<Self, ShardError> {
        let Some(manifest) = existing(&store).await? else {
            let url = store.url().to_owned();
            return Err(match finished_indices(&store.list("").await?).len() {
                0 => ShardError::Missing { url },
                finished => ShardError::HalfWritten { url, finished },
            });
        };
        check_files(&store, &manifest).await?;
        let starts = manifest.shards.iter().scan(0, |next, shard| Some(std::mem::replace(next, *next + shard.rows))).collect();
        Ok(Self { store, manifest, starts, cache: BlockCache::new(cache_bytes as u64) })
    }

    /// The manifest: schema, metadata, shards, fingerprint.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.manifest.rows()
    }

    /// `rows` of `column`, concatenated in the order asked for. A damaged block is fetched a second time before it is an error.
    pub async fn read_rows(&self, column: &str, rows: &[u64]) -> Result<Vec<u8>, ShardError> {
        let place = self.place(column)?;
        let row_bytes = place.column.row_bytes();
        let mut output = vec![0; rows.len() * row_bytes];
        let wanted = self.group_by_block(&place, rows)?;
        let place = &place;
        let fetches = wanted.into_iter().map(|(key, copies)| async move { Ok((self.block(place, key).await?, copies)) });
        let mut blocks = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some((block, copies)) = blocks.try_next().await.map_err(|error: ShardError| error)? {
            for (to, from) in copies {
                output[to * row_bytes..][..row_bytes].copy_from_slice(&block[from * row_bytes..][..row_bytes]);
            }
        }
        Ok(output)
    }

    /// The blocks that hold `rows`, and for each what to copy: place in the answer, row in the block.
    fn group_by_block(&self, place: &Place<'_>, rows: &[u64]) -> Result<BTreeMap<BlockKey, Vec<(usize, usize)>>, ShardError> {
        let total = self.rows();
        let mut wanted: BTreeMap<BlockKey, Vec<(usize, usize)>> = BTreeMap::new();
        for (to, &row) in rows.iter().enumerate() {
            if row >= total {
                return Err(ShardError::Row { url: self.store.url().to_owned(), row, rows: total });
            }
            let shard = self.starts.partition_point(|&start| start <= row) - 1;
            let row = row - self.starts[shard];
            let rows_per_block = self.stored(place, shard).1.rows_per_block;
            let key = (shard as u32, place.file as u32, place.stored as u32, row / rows_per_block);
            wanted.entry(key).or_default().push((to, (row % rows_per_block) as usize));
        }
        Ok(wanted)
    }

    fn place(&self, name: &str) -> Result<Place<'_>, ShardError> {
        let schema = &self.manifest.schema;
        for (file, (_, indices)) in schema.files().into_iter().enumerate() {
            if let Some(stored) = indices.iter().position(|&index| schema.columns[index].name == name) {
                return Ok(Place { column: &schema.columns[indices[stored]], file, stored });
            }
        }
        let known = schema.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(ShardError::Column { url: self.store.url().to_owned(), column: name.to_owned(), known })
    }

    fn stored(&self, place: &Place<'_>, shard: usize) -> (&ShardFile, &StoredColumn) {
        let file = &self.manifest.shards[shard].files[place.file];
        (file, &file.columns[place.stored])
    }

    async fn block(&self, place: &Place<'_>, key: BlockKey) -> Result<Bytes, ShardError> {
        let (shard, block) = (key.0 as usize, key.3);
        let rows_per_block = self.stored(place, shard).1.rows_per_block;
        let rows = rows_per_block.min(self.manifest.shards[shard].rows - block * rows_per_block);
        let bytes = rows * place.column.row_bytes() as u64;
        let cached = self.cache.place(key, bytes);
        cached.get_or_try_init(|| self.fetch(place, shard, block, bytes)).await.cloned()
    }

    async fn fetch(&self, place: &Place<'_>, shard: usize, block: u64, bytes: u64) -> Result<Bytes, ShardError> {
        let (file, stored) = self.stored(place, shard);
        let offset = stored.offset + block * stored.rows_per_block * place.column.row_bytes() as u64;
        let expected = stored.crc32c[block as usize];
        let mut refetched = false;
        loop {
            let data = self.store.get_range(&file.name, offset..offset + bytes).await?;
            let found = crc32c::crc32c(&data);
            if found == expected {
                return Ok(data);
            }
            let object = self.store.name_url(&file.name);
            let error = ShardError::Corrupt { object, column: place.column.name.clone(), block, offset, expected, found };
            if refetched {
                return Err(error);
            }
            // A flipped bit on the way is gone the second time; one on the disk is not.
            tracing::warn!("reading a block again: {error}");
            refetched = true;
        }
    }
}

/// All files of the data set are there and have their sizes.
async fn check_files(store: &Store, manifest: &Manifest) -> Result<(), ShardError> {
    let found: BTreeMap<String, u64> = store.list("").await?.into_iter().map(|entry| (entry.name, entry.size)).collect();
    for file in manifest.shards.iter().flat_map(|shard| &shard.files) {
        let object = || store.name_url(&file.name);
        match found.get(&file.name) {
            None => return Err(ShardError::FileMissing { object: object() }),
            Some(&found) if found != file.bytes => {
                return Err(ShardError::FileSize { object: object(), expected: file.bytes, found });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
