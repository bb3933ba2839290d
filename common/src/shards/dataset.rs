//! Reading: rows of any column in any order, each block verified before a row of it is handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};

use super::cache::{BlockCache, BlockKey};
use super::fetch::Meter;
use super::layout::OwnedRows;
use super::manifest::{Manifest, OFFSET_BYTES, ShardFile, StoredColumn, existing};
use super::node_cache::{Group, NodeCache, NodeCacheError};
use super::schema::Part;
use super::writer::finished_indices;
use super::{Column, ShardError, presence};
use crate::storage::Store;

/// Blocks fetched at the same time for one call.
const FETCHES: usize = 8;

/// A complete data set, open for reading. All methods take `&self` and may be called concurrently.
pub struct Dataset {
    pub(super) store: Store,
    pub(super) manifest: Manifest,
    /// First row of every shard.
    pub(super) starts: Vec<u64>,
    pub(super) cache: BlockCache,
    pub(super) meter: Meter,
    /// What this host has in common.
    pub(super) node: Option<Group>,
    /// Where it keeps what was decoded.
    pub(super) decoded: Option<Group>,
}

/// Where a tensor lies: the same file and place in every shard.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) column: &'a Column,
    pub(super) part: Part,
    pub(super) file: usize,
    pub(super) stored: usize,
}

/// The tensors of a column.
pub(super) enum Places<'a> {
    Fixed(Place<'a>),
    Encoded { offsets: Place<'a>, bytes: Place<'a> },
}

impl<'a> Places<'a> {
    /// The one with the rows.
    pub(super) fn rows(&self) -> &Place<'a> {
        match self {
            Self::Fixed(place) | Self::Encoded { bytes: place, .. } => place,
        }
    }

    /// The one that is needed first.
    fn first(&self) -> &Place<'a> {
        match self {
            Self::Fixed(place) | Self::Encoded { offsets: place, .. } => place,
        }
    }
}

/// A row's place in the answer, and in its block.
type Placed = (usize, usize);

/// The blocks that hold rows, and for each what to take.
type Wanted = BTreeMap<BlockKey, Vec<Placed>>;

impl Dataset {
    /// Opens the data set at `store` with a cache of `cache_bytes` for verified blocks. Manifest, presence and size of all files are
    /// checked here; digests are checked as blocks are read. Random order over a window of shards fetches every block once only if
    /// the window's blocks fit into the cache.
    pub async fn open(store: Store, cache_bytes: usize) -> Result<Self, ShardError> {
        // Side by side: with many shards, either takes a while.
        let (manifest, sizes) = tokio::join!(existing(&store), presence::sizes(&store));
        let Some(manifest) = manifest? else {
            let url = store.url().to_owned();
            return Err(match finished_indices(&store.list("").await?).len() {
                0 => ShardError::Missing { url },
                finished => ShardError::HalfWritten { url, finished },
            });
        };
        presence::check(&store, &manifest, &sizes?)?;
        let starts = manifest.shards.iter().scan(0, |next, shard| Some(std::mem::replace(next, *next + shard.rows))).collect();
        Ok(Self {
            store,
            manifest,
            starts,
            cache: BlockCache::new(cache_bytes as u64),
            meter: Meter::default(),
            node: None,
            decoded: None,
        })
    }

    /// Where it lies.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// The manifest: schema, metadata, shards, fingerprint.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.manifest.rows()
    }

    /// The part of a host's cache that belongs to this data set.
    ///
    /// # Errors
    /// The file system of the cache fails.
    pub fn node_group(&self, cache: &Arc<NodeCache>) -> Result<Group, NodeCacheError> {
        cache.group(self.manifest.fingerprint())
    }

    /// Keeps blocks in the cache of this host too, and looks for them there first.
    #[must_use]
    pub fn with_node_cache(self, group: Group) -> Self {
        Self { node: Some(group), ..self }
    }

    /// `rows` of `column`, in the order asked for, as they are stored. A damaged block is fetched a second time before it is an error.
    pub async fn read(&self, column: &str, rows: &[u64]) -> Result<OwnedRows, ShardError> {
        match self.column(column)?.encoding {
            None => self.read_rows(column, rows).await.map(OwnedRows::Fixed),
            Some(_) => {
                let encoded = self.read_slices(column, rows).await?;
                Ok(OwnedRows::Encoded(encoded.iter().map(|row| row.to_vec()).collect()))
            }
        }
    }

    /// As [`read`](Self::read) for a column that is not encoded: its rows, concatenated.
    pub async fn read_rows(&self, column: &str, rows: &[u64]) -> Result<Vec<u8>, ShardError> {
        self.place(column, Part::Rows)?;
        Ok(self.read_slices(column, rows).await?.concat())
    }

    /// As [`read`](Self::read) without a copy: the rows are slices of their blocks, and keep those in memory.
    pub async fn read_slices(&self, column: &str, rows: &[u64]) -> Result<Vec<Bytes>, ShardError> {
        let places = &self.places(column)?;
        let mut output = vec![Bytes::new(); rows.len()];
        let mut absent = Vec::new();
        for (key, rows) in self.group_by_block(places.rows(), rows)? {
            match self.in_memory(places, key) {
                Some(block) => self.cut(places, key, &block, &rows, &mut output)?,
                None => absent.push((key, rows)),
            }
        }
        let fetches = absent.into_iter().map(|(key, rows)| async move { Ok((key, self.block(places, key).await?, rows)) });
        let mut blocks = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        while let Some((key, block, rows)) = blocks.try_next().await.map_err(|error: ShardError| error)? {
            self.cut(places, key, &block, &rows, &mut output)?;
        }
        Ok(output)
    }

    /// Where the blocks of `rows` of a column lie and how large they are, without doubles: what [`read_slices`](Self::read_slices) needs
    /// for those of them that this host has not decoded.
    pub(super) fn needs(&self, column: &str, rows: &[u64]) -> Result<Vec<(Part, BlockKey, u64)>, ShardError> {
        let places = self.places(column)?;
        let rows = self.not_decoded(places.rows(), rows)?;
        let blocks: Vec<BlockKey> = self.group_by_block(places.rows(), &rows)?.into_keys().collect();
        let tables: BTreeSet<BlockKey> = match &places {
            Places::Fixed(_) => BTreeSet::new(),
            Places::Encoded { offsets, .. } => blocks.iter().map(|&key| offsets_of(key, offsets)).collect(),
        };
        let needed = |place: &Place<'_>, key: BlockKey| {
            let range = self.range(place, key);
            (place.part, key, range.end - range.start)
        };
        let first = places.first();
        Ok(tables
            .into_iter()
            .map(|key| needed(first, key))
            .chain(blocks.into_iter().map(|key| needed(places.rows(), key)))
            .collect())
    }

    /// Brings a block of a column into memory.
    pub(super) async fn bring(&self, column: &str, part: Part, key: BlockKey) -> Result<(), ShardError> {
        self.cached(&self.place(column, part)?, key).await.map(drop)
    }

    /// Rows out of their block, each to its place in the answer.
    fn cut(
        &self,
        places: &Places<'_>,
        key: BlockKey,
        block: &Block,
        rows: &[Placed],
        output: &mut [Bytes],
    ) -> Result<(), ShardError> {
        let table = match places {
            Places::Fixed(place) => {
                let row_bytes = place.column.row_bytes();
                for &(to, from) in rows {
                    output[to] = block.rows.slice(from * row_bytes..(from + 1) * row_bytes);
                }
                return Ok(());
            }
            Places::Encoded { .. } => block.table.as_deref().unwrap_or_default(),
        };
        let (place, block) = (places.rows(), &block.rows);
        let (file, stored) = self.stored(place, key.0 as usize);
        let first = key.3 * stored.rows_per_block;
        let block_start = if key.3 == 0 { 0 } else { stored.block_ends[key.3 as usize - 1] };
        let offset = |row: u64| {
            let bytes = table.get((row * OFFSET_BYTES) as usize..)?.first_chunk()?;
            u64::from_le_bytes(*bytes).checked_sub(block_start).map(|offset| offset as usize)
        };
        for &(to, from) in rows {
            let row = first + from as u64;
            output[to] = match (offset(row), offset(row + 1)) {
                (Some(start), Some(end)) if start <= end && end <= block.len() => block.slice(start..end),
                _ => {
                    let reason = format!("row {row} of column {} lies outside its block {}", place.column.name, key.3);
                    return Err(ShardError::Inconsistent { object: self.store.name_url(&file.name), reason });
                }
            };
        }
        Ok(())
    }

    fn group_by_block(&self, place: &Place<'_>, rows: &[u64]) -> Result<Wanted, ShardError> {
        let mut wanted = Wanted::new();
        for (to, &row) in rows.iter().enumerate() {
            let (key, of_block) = self.locate(place, row)?;
            wanted.entry(key).or_default().push((to, of_block as usize));
        }
        Ok(wanted)
    }

    /// The block of a row, and which row of it that is.
    pub(super) fn locate(&self, place: &Place<'_>, row: u64) -> Result<(BlockKey, u64), ShardError> {
        let shard = self.starts.partition_point(|&start| start <= row).saturating_sub(1);
        let of_shard = row - self.starts.get(shard).unwrap_or(&0);
        if self.manifest.shards.get(shard).is_none_or(|shard| of_shard >= shard.rows) {
            return Err(ShardError::Row { url: self.store.url().to_owned(), row, rows: self.rows() });
        }
        let rows_per_block = self.stored(place, shard).1.rows_per_block;
        let key = (shard as u32, place.file as u32, place.stored as u32, of_shard / rows_per_block);
        Ok((key, of_shard % rows_per_block))
    }

    pub(super) fn column(&self, name: &str) -> Result<&Column, ShardError> {
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

    /// The tensors of a column.
    pub(super) fn places(&self, name: &str) -> Result<Places<'_>, ShardError> {
        Ok(match self.column(name)?.encoding {
            None => Places::Fixed(self.place(name, Part::Rows)?),
            Some(_) => Places::Encoded { offsets: self.place(name, Part::Offsets)?, bytes: self.place(name, Part::Bytes)? },
        })
    }

    /// Where a block lies in its file.
    fn range(&self, place: &Place<'_>, key: BlockKey) -> Range<u64> {
        let shard = key.0 as usize;
        self.stored(place, shard).1.block(place.part, place.column, self.manifest.shards[shard].rows, key.3)
    }

    /// A block of rows that a batch needs, if it is in memory with all that belongs to it.
    fn in_memory(&self, places: &Places<'_>, key: BlockKey) -> Option<Block> {
        let table = match places {
            Places::Fixed(_) => None,
            Places::Encoded { offsets, .. } => Some(self.cache.find(offsets_of(key, offsets))?),
        };
        let rows = self.cache.find(key)?;
        self.meter.asked(1 + u64::from(table.is_some()));
        Some(Block { table, rows })
    }

    /// The same from wherever it is.
    async fn block(&self, places: &Places<'_>, key: BlockKey) -> Result<Block, ShardError> {
        let rows = self.cached(places.rows(), key);
        match places {
            Places::Fixed(_) => {
                self.meter.asked(1);
                Ok(Block { table: None, rows: rows.await? })
            }
            Places::Encoded { offsets, .. } => {
                self.meter.asked(2);
                let (table, rows) = future::try_join(self.cached(offsets, offsets_of(key, offsets)), rows).await?;
                Ok(Block { table: Some(table), rows })
            }
        }
    }

    async fn cached(&self, place: &Place<'_>, key: BlockKey) -> Result<Bytes, ShardError> {
        let range = self.range(place, key);
        let cell = self.cache.place(key, range.end - range.start);
        cell.get_or_try_init(|| self.shared(place, key, range)).await.cloned()
    }
}

/// A block of rows.
struct Block {
    /// Of encoded rows, where each lies in the shard.
    table: Option<Bytes>,
    rows: Bytes,
}

/// The block with the offsets of the rows in block `key`.
fn offsets_of(key: BlockKey, offsets: &Place<'_>) -> BlockKey {
    (key.0, key.1, offsets.stored as u32, 0)
}
