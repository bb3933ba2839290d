//! Verified blocks in memory, the least recently used given up first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

/// Names a block: shard, file of the shard, column of the file, block of the column.
pub(super) type BlockKey = (u32, u32, u32, u64);

/// A bounded set of blocks. Readers that ask for the same block at the same time share one fetch.
pub(super) struct BlockCache {
    capacity: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: HashMap<BlockKey, Slot>,
    /// The blocks by the time of their last use.
    by_use: BTreeMap<u64, BlockKey>,
    clock: u64,
    bytes: u64,
}

struct Slot {
    block: Arc<OnceCell<Bytes>>,
    bytes: u64,
    used: u64,
}

impl BlockCache {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity, state: Mutex::default() }
    }

    /// The block, if it is here.
    pub(super) fn find(&self, key: BlockKey) -> Option<Bytes> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let slot = state.slots.get_mut(&key)?;
        let block = slot.block.get()?.clone();
        state.clock += 1;
        state.by_use.remove(&slot.used);
        state.by_use.insert(state.clock, key);
        slot.used = state.clock;
        Some(block)
    }

    /// The place of a block of `bytes` bytes, filled or to be filled by the caller. It stays valid for the caller even when the cache
    /// gives the block up meanwhile.
    pub(super) fn place(&self, key: BlockKey, bytes: u64) -> Arc<OnceCell<Bytes>> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        let now = state.clock;
        let slot = state.slots.entry(key).or_insert_with(|| {
            state.bytes += bytes;
            Slot { block: Arc::default(), bytes, used: now }
        });
        state.by_use.remove(&slot.used);
        state.by_use.insert(now, key);
        slot.used = now;
        let block = slot.block.clone();
        while state.bytes > self.capacity
            && let Some((_, oldest)) = state.by_use.pop_first()
        {
            if let Some(slot) = state.slots.remove(&oldest) {
                state.bytes -= slot.bytes;
            }
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_block_goes_first() {
        let cache = BlockCache::new(30);
        let key = |block| (0, 0, 0, block);
        let held = |block: u64, cache: &BlockCache| cache.state.lock().is_ok_and(|state| state.slots.contains_key(&key(block)));
        let first = cache.place(key(0), 10);
        for block in [1, 2, 0, 3] {
            cache.place(key(block), 10);
        }
        assert_eq!([0, 1, 2, 3].map(|block| held(block, &cache)), [true, false, true, true]);
        assert!(Arc::ptr_eq(&first, &cache.place(key(0), 10)));
        cache.place(key(4), 31);
        assert_eq!([0, 1, 2, 3, 4].map(|block| held(block, &cache)), [false; 5], "nothing above the limit is kept");
        assert!(cache.state.lock().is_ok_and(|state| state.bytes == 0 && state.by_use.is_empty()));
    }
}
