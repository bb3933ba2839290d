//! Blocks on their way from where the data set lies: verified, fetched again where damaged, and counted.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use super::ShardError;
use super::cache::BlockKey;
use super::dataset::{Dataset, Place};

/// What has been read of a data set since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How often a block was asked for.
    pub asked: u64,
    /// Blocks that had to be fetched from where the data set lies.
    pub fetched: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
}

impl Traffic {
    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            asked: self.asked.saturating_sub(before.asked),
            fetched: self.fetched.saturating_sub(before.fetched),
            fetched_bytes: self.fetched_bytes.saturating_sub(before.fetched_bytes),
        }
    }

    /// Share of the blocks asked for that were in memory or in the node's cache; 1 if none was asked for.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        if self.asked == 0 { 1.0 } else { 1.0 - self.fetched.min(self.asked) as f64 / self.asked as f64 }
    }
}

/// Counts it.
#[derive(Default)]
pub(super) struct Meter {
    asked: AtomicU64,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
}

impl Meter {
    pub(super) fn asked(&self, blocks: u64) {
        self.asked.fetch_add(blocks, Relaxed);
    }

    fn fetched(&self, bytes: usize) {
        self.fetched.fetch_add(1, Relaxed);
        self.fetched_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Dataset {
    /// What has been read so far.
    pub fn traffic(&self) -> Traffic {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let meter = &self.meter;
        Traffic { asked: load(&meter.asked), fetched: load(&meter.fetched), fetched_bytes: load(&meter.fetched_bytes) }
    }

    /// The block `key`, the bytes `range` of its file: from the cache of this host if there is one, else fetched.
    pub(super) async fn shared(&self, place: &Place<'_>, key: BlockKey, range: Range<u64>) -> Result<Bytes, ShardError> {
        let Some(node) = &self.node else { return self.fetch(place, key, range).await };
        let crc32c = self.stored(place, key.0 as usize).1.crc32c[key.3 as usize];
        node.block(key, (range.end - range.start, crc32c), self.fetch(place, key, range)).await
    }

    /// The same from where the data set lies, verified.
    async fn fetch(&self, place: &Place<'_>, key: BlockKey, range: Range<u64>) -> Result<Bytes, ShardError> {
        let (shard, block) = (key.0 as usize, key.3);
        let (file, stored) = self.stored(place, shard);
        let expected = stored.crc32c[block as usize];
        let mut refetched = false;
        loop {
            let data = self.store.get_range(&file.name, range.clone()).await?;
            self.meter.fetched(data.len());
            let found = crc32c::crc32c(&data);
            if found == expected {
                return Ok(data);
            }
            let (object, column, offset) = (self.store.name_url(&file.name), stored.name.clone(), range.start);
            let error = ShardError::Corrupt { object, column, block, offset, expected, found };
            if refetched {
                return Err(error);
            }
            // A flipped bit on the way is gone the second time; one on the disk is not.
            tracing::warn!("reading a block again: {error}");
            refetched = true;
        }
    }
}
