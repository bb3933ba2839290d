//! Reading: rows of any column in any order, each block verified before a row of it is handed out.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};

use super::cache::{BlockCache, BlockKey};
use super::fetch::Meter;
use super::layout::OwnedRows;
use super::manifest::{Manifest, OFFSET_BYTES, ShardFile, StoredColumn, existing};
use super::schema::Part;
use super::writer::finished_indices;
use super::{Column, ShardError};
use crate::storage::Store;

/// Blocks fetched at the same time for one call.
const FETCHES: usize = 8;

/// A complete data set, open for reading. All methods take `&self` and may be called concurrently.
pub struct Dataset {
    pub(super) store: Store,
    pub(super) manifest: Manifest,
    /// First row of every shard.
    starts: Vec<u64>,
    pub(super) cache: BlockCache,
    pub(super) meter: Meter,
}

/// Where a tensor lies: the same file and place in every shard.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) column: &'a Column,
    pub(super) part: Part,
    pub(super) file: usize,
    pub(super) stored: usize,
}

/// The blocks that hold rows, and for each what to take: place in the answer, row in the block.
type Wanted = BTreeMap<BlockKey, Vec<(usize, usize)>>;

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
        Ok(Self { store, manifest, starts, cache: BlockCache::new(cache_bytes as u64), meter: Meter::default() })
    }

    /// The manifest: schema, metadata, shards, fingerprint.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.manifest.rows()
    }

    /// `rows` of `column`, in the order asked for, as they are stored. A damaged block is fetched a second time before it is an error.
    pub async fn read(&self, column: &str, rows: &[u64]) -> Result<OwnedRows, ShardError> {
        match self.column(column)?.encoding {
            None => self.read_rows(column, rows).await.map(OwnedRows::Fixed),
            Some(_) => {
                let encoded = self.read_encoded(column, rows).await?;
                Ok(OwnedRows::Encoded(encoded.iter().map(|row| row.to_vec()).collect()))
            }
        }
    }

    /// As [`read`](Self::read) for a column that is not encoded: its rows, concatenated.
    pub async fn read_rows(&self, column: &str, rows: &[u64]) -> Result<Vec<u8>, ShardError> {
        let place = &self.place(column, Part::Rows)?;
        let row_bytes = place.column.row_bytes();
        let mut output = vec![0; rows.len() * row_bytes];
        let wanted = self.group_by_block(place, rows)?;
        let fetches =
            wanted.into_iter().map(|(key, copies)| async move { Ok::<_, ShardError>((self.block(place, key).await?, copies)) });
        let mut blocks = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some((block, copies)) = blocks.try_next().await? {
            for (to, from) in copies {
                output[to * row_bytes..][..row_bytes].copy_from_slice(&block[from * row_bytes..][..row_bytes]);
            }
        }
        Ok(output)
    }

    /// As [`read`](Self::read) for an encoded column, without a copy: the rows are slices of their blocks, and keep those in memory.
    pub async fn read_encoded(&self, column: &str, rows: &[u64]) -> Result<Vec<Bytes>, ShardError> {
        let (offsets, place) = (&self.place(column, Part::Offsets)?, &self.place(column, Part::Bytes)?);
        let mut output = vec![Bytes::new(); rows.len()];
        let wanted = self.group_by_block(place, rows)?;
        let fetches = wanted.into_iter().map(|(key, rows)| async move {
            let table = (key.0, key.1, offsets.stored as u32, 0);
            let (table, block) = future::try_join(self.block(offsets, table), self.block(place, key)).await?;
            self.cut(place, key, (&table, &block), &rows)
        });
        let mut blocks = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some(rows) = blocks.try_next().await? {
            for (to, row) in rows {
                output[to] = row;
            }
        }
        Ok(output)
    }

    /// Encoded rows out of their block, by the shard's table of offsets.
    fn cut(
        &self,
        place: &Place<'_>,
        key: BlockKey,
        (table, block): (&Bytes, &Bytes),
        rows: &[(usize, usize)],
    ) -> Result<Vec<(usize, Bytes)>, ShardError> {
        let (file, stored) = self.stored(place, key.0 as usize);
        let first = key.3 * stored.rows_per_block;
        let block_start = if key.3 == 0 { 0 } else { stored.block_ends[key.3 as usize - 1] };
        let offset = |row: u64| {
            let bytes = table.get((row * OFFSET_BYTES) as usize..)?.first_chunk()?;
            u64::from_le_bytes(*bytes).checked_sub(block_start).map(|offset| offset as usize)
        };
        let cut = |&(to, from): &(usize, usize)| {
            let row = first + from as u64;
            match (offset(row), offset(row + 1)) {
                (Some(start), Some(end)) if start <= end && end <= block.len() => Ok((to, block.slice(start..end))),
                _ => Err(ShardError::Inconsistent {
                    object: self.store.name_url(&file.name),
                    reason: format!("row {row} of column {} lies outside its block {}", place.column.name, key.3),
                }),
            }
        };
        rows.iter().map(cut).collect()
    }

    fn group_by_block(&self, place: &Place<'_>, rows: &[u64]) -> Result<Wanted, ShardError> {
        let total = self.rows();
        let mut wanted = Wanted::new();
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

    fn column(&self, name: &str) -> Result<&Column, ShardError> {
        self.manifest.schema.column(name).ok_or_else(|| {
            let known = self.manifest.schema.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
            ShardError::Column { url: self.store.url().to_owned(), column: name.to_owned(), known }
        })
    }

    /// Where that part of the column lies.
    fn place(&self, name: &str, part: Part) -> Result<Place<'_>, ShardError> {
        let (schema, column) = (&self.manifest.schema, self.column(name)?);
        for (file, contents) in schema.files().into_iter().enumerate() {
            let is_it = |&(index, of): &(usize, Part)| schema.columns[index].name == name && of == part;
            if let Some(stored) = contents.tensors.iter().position(is_it) {
                return Ok(Place { column, part, file, stored });
            }
        }
        let found = column.encoding.map_or_else(|| "not encoded".to_owned(), |encoding| format!("encoded as {encoding}"));
        Err(ShardError::Encoded { url: self.store.url().to_owned(), column: name.to_owned(), found })
    }

    pub(super) fn stored(&self, place: &Place<'_>, shard: usize) -> (&ShardFile, &StoredColumn) {
        let file = &self.manifest.shards[shard].files[place.file];
        (file, &file.columns[place.stored])
    }

    async fn block(&self, place: &Place<'_>, key: BlockKey) -> Result<Bytes, ShardError> {
        let shard = key.0 as usize;
        let range = self.stored(place, shard).1.block(place.part, place.column, self.manifest.shards[shard].rows, key.3);
        self.meter.asked();
        let cached = self.cache.place(key, range.end - range.start);
        cached.get_or_try_init(|| self.fetch(place, shard, key.3, range)).await.cloned()
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
