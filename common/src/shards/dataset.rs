//! Reading: rows of any column in any order, each block verified before a row of it is handed out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::Path;
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
    /// What this host has in common.
    pub(super) node: Option<Group>,
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
enum Places<'a> {
    Fixed(Place<'a>),
    Encoded { offsets: Place<'a>, bytes: Place<'a> },
}

impl<'a> Places<'a> {
    /// The one with the rows.
    fn rows(&self) -> &Place<'a> {
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

/// The blocks that hold rows, and for each what to take: place in the answer, row in the block.
type Wanted = BTreeMap<BlockKey, Vec<(usize, usize)>>;

impl Dataset {
    /// Opens the data set at `store` with a cache of `cache_bytes` for verified blocks. Manifest, presence and size of all files are
    /// checked here; digests are checked as blocks are read. Random order over a window of shards fetches every block once only if
    /// the window's blocks fit into the cache.
    pub async fn open(store: Store, cache_bytes: usize) -> Result<Self, ShardError> {
        // Side by side: with many shards, either takes a while.
        let (manifest, sizes) = tokio::join!(existing(&store), sizes(&store));
        let Some(manifest) = manifest? else {
            let url = store.url().to_owned();
            return Err(match finished_indices(&store.list("").await?).len() {
                0 => ShardError::Missing { url },
                finished => ShardError::HalfWritten { url, finished },
            });
        };
        check_files(&store, &manifest, &sizes?)?;
        let starts = manifest.shards.iter().scan(0, |next, shard| Some(std::mem::replace(next, *next + shard.rows))).collect();
        Ok(Self { store, manifest, starts, cache: BlockCache::new(cache_bytes as u64), meter: Meter::default(), node: None })
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
        let wanted = self.group_by_block(places.rows(), rows)?;
        let fetches = wanted.into_iter().map(|(key, rows)| async move {
            let block = self.block(places.rows(), key);
            match places {
                Places::Fixed(place) => Ok(cut_fixed(place, &block.await?, &rows)),
                Places::Encoded { offsets, bytes } => {
                    let (table, block) = future::try_join(self.block(offsets, offsets_of(key, offsets)), block).await?;
                    self.cut_encoded(bytes, key, (&table, &block), &rows)
                }
            }
        });
        let mut blocks = futures::stream::iter(fetches).buffer_unordered(FETCHES);
        let mut output = vec![Bytes::new(); rows.len()];
        while let Some(rows) = blocks.try_next().await.map_err(|error: ShardError| error)? {
            for (to, row) in rows {
                output[to] = row;
            }
        }
        Ok(output)
    }

    /// Where the blocks of `rows` of a column lie and how large they are, without doubles: what [`read_slices`](Self::read_slices) needs.
    pub(super) fn needs(&self, column: &str, rows: &[u64]) -> Result<Vec<(Part, BlockKey, u64)>, ShardError> {
        let places = self.places(column)?;
        let blocks: Vec<BlockKey> = self.group_by_block(places.rows(), rows)?.into_keys().collect();
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

    /// Encoded rows out of their block, by the shard's table of offsets.
    fn cut_encoded(
        &self,
        place: &Place<'_>,
        key: BlockKey,
        (table, block): (&Bytes, &Bytes),
        rows: &[(usize, usize)],
    ) -> Result<Vec<Placed>, ShardError> {
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

    /// The tensors of a column.
    fn places(&self, name: &str) -> Result<Places<'_>, ShardError> {
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

    /// A block that a batch needs.
    async fn block(&self, place: &Place<'_>, key: BlockKey) -> Result<Bytes, ShardError> {
        self.meter.asked();
        self.cached(place, key).await
    }

    async fn cached(&self, place: &Place<'_>, key: BlockKey) -> Result<Bytes, ShardError> {
        let range = self.range(place, key);
        let cell = self.cache.place(key, range.end - range.start);
        cell.get_or_try_init(|| self.shared(place, key, range)).await.cloned()
    }
}

/// A row and its place in the answer.
type Placed = (usize, Bytes);

/// Rows of one size out of their block.
fn cut_fixed(place: &Place<'_>, block: &Bytes, rows: &[(usize, usize)]) -> Vec<Placed> {
    let row_bytes = place.column.row_bytes();
    rows.iter().map(|&(to, from)| (to, block.slice(from * row_bytes..(from + 1) * row_bytes))).collect()
}

/// The block with the offsets of the rows in block `key`.
fn offsets_of(key: BlockKey, offsets: &Place<'_>) -> BlockKey {
    (key.0, key.1, offsets.stored as u32, 0)
}

/// All files of the data set are there and have their sizes.
fn check_files(store: &Store, manifest: &Manifest, found: &HashMap<String, u64>) -> Result<(), ShardError> {
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

/// The sizes of all objects by name. A local folder is read directly: a store asks much more about each of its files, which for ten thousand
/// shards is half a second.
async fn sizes(store: &Store) -> Result<HashMap<String, u64>, ShardError> {
    if let Some(folder) = store.local_path()
        && let Ok(Ok(found)) = tokio::task::spawn_blocking(move || local_sizes(&folder)).await
    {
        return Ok(found);
    }
    Ok(store.list("").await?.into_iter().map(|entry| (entry.name, entry.size)).collect())
}

fn local_sizes(folder: &Path) -> io::Result<HashMap<String, u64>> {
    let size = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), std::fs::metadata(entry.path())?.len()))
    };
    std::fs::read_dir(folder)?.map(size).collect()
}
