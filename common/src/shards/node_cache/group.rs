//! The blocks of one data set in the cache.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};

use super::books::{Books, IN_USE, Partial, Shelf, charge};
use super::{NodeCache, turns};
use crate::shards::cache::BlockKey;

/// Digits of the fingerprint that name a data set's folder.
pub(super) const NAME: usize = 32;

/// A data set's part of the cache. Nothing of it is given up for other data sets as long as this lives.
#[derive(Debug, Clone)]
pub struct Group {
    pub(super) cache: Arc<NodeCache>,
    pub(super) folder: PathBuf,
    _in_use: Arc<Flock<File>>,
}

impl Group {
    pub(super) fn open(cache: Arc<NodeCache>, fingerprint: &str) -> io::Result<Self> {
        let folder = cache.folder.join(fingerprint.get(..NAME).unwrap_or(fingerprint));
        fs::create_dir_all(&folder)?;
        let marker = File::options().create(true).truncate(false).write(true).open(folder.join(IN_USE))?;
        let in_use = Flock::lock(marker, FlockArg::LockShared).map_err(|(_, error)| error)?;
        in_use.set_modified(SystemTime::now())?;
        Ok(Self { cache, folder, _in_use: Arc::new(in_use) })
    }

    /// A block of `bytes` bytes with this digest: from the cache, else by `fetch`, which must verify it, and then it is in the cache. Of all
    /// who ask for the same block at the same time one fetches.
    pub(crate) async fn block<E>(
        &self,
        key: BlockKey,
        (bytes, crc32c): (u64, u32),
        fetch: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        let name = block_name(key);
        if let Some(block) = self.find(name.clone(), bytes, crc32c).await {
            return Ok(block);
        }
        if !self.cache.adds() {
            return fetch.await;
        }
        let of_data_set = format!("{}/{name}", self.folder.display());
        let turn = turns::take(&self.cache.folder, &of_data_set).await;
        // Whoever had the turn before may have fetched it.
        if let Some(block) = self.find(name.clone(), bytes, crc32c).await {
            return Ok(block);
        }
        let block = fetch.await?;
        let (group, data) = (self.clone(), block.clone());
        // The batch does not wait for the disk; who waits for the turn does.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = group.add(&name, &data) {
                group.cache.give_up(&error);
            }
            drop(turn);
        }));
        Ok(block)
    }

    /// Whether every block that was fetched is in the cache.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        // The data set's and the caller's; each block that is being added has one more.
        Arc::strong_count(&self._in_use) <= 2
    }

    async fn find(&self, name: String, bytes: u64, crc32c: u32) -> Option<Bytes> {
        let group = self.clone();
        tokio::task::spawn_blocking(move || group.read(&name, bytes, crc32c)).await.ok().flatten()
    }

    /// The block, if it is there and is what it must be.
    fn read(&self, name: &str, bytes: u64, crc32c: u32) -> Option<Bytes> {
        for shelf in Shelf::ALL {
            let path = self.folder.join(shelf.folder()).join(name);
            let Ok(data) = fs::read(&path) else { continue };
            if data.len() as u64 == bytes && crc32c::crc32c(&data) == crc32c {
                return Some(data.into());
            }
            tracing::warn!("{}: damaged; the block is fetched again", path.display());
            let discarded = Books::open(&self.cache.folder).and_then(|mut books| books.discard(shelf, &path));
            if let Err(error) = discarded {
                tracing::debug!("{}: {error}", path.display());
            }
        }
        None
    }

    /// Puts the block into the cache, if there is room or room can be made.
    fn add(&self, name: &str, data: &[u8]) -> io::Result<()> {
        let mut books = Books::open(&self.cache.folder)?;
        if Shelf::ALL.iter().any(|shelf| self.folder.join(shelf.folder()).join(name).exists()) {
            return Ok(());
        }
        let bytes = charge(data.len() as u64);
        let Some(shelf) = books.make_room(self.cache.limits, bytes)? else { return Ok(()) };
        let partial = Partial::create(&self.folder.join(shelf.folder()), name, bytes)?;
        books.add(shelf, bytes)?;
        // Others may have the books while the block is written: its bytes are set aside.
        drop(books);
        partial.complete(data, name).inspect_err(|_| {
            if let Err(error) = Books::open(&self.cache.folder).and_then(|mut books| books.subtract(shelf, bytes)) {
                tracing::debug!("{}: {error}", self.folder.display());
            }
        })
    }
}

/// What the file of a block is called.
pub(super) fn block_name(key: BlockKey) -> String {
    format!("{}.{}.{}.{}", key.0, key.1, key.2, key.3)
}
