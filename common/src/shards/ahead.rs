//! Fetching ahead by bytes: the blocks of the steps to come, in the order in which they are needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cache::BlockKey;
use super::{Dataset, ShardError};

/// Blocks on their way at the same time. A block that a batch waits for does not queue behind them.
const FETCHES: usize = 32;
/// Most steps looked ahead, where their blocks are few.
const STEPS: usize = 256;

/// The blocks that the next steps need, in memory or on their way there. All of them together stay within a budget, so that memory does
/// not grow with the speed of the store. Fetching ends when this is dropped.
pub struct ReadAhead {
    dataset: Arc<Dataset>,
    runtime: Handle,
    budget: u64,
    steps: VecDeque<(u64, Vec<BlockKey>)>,
    blocks: HashMap<BlockKey, Needed>,
    bytes: u64,
    turns: Arc<Semaphore>,
    fetches: JoinSet<()>,
}

/// A block that steps need.
struct Needed {
    steps: u32,
    bytes: u64,
}

impl ReadAhead {
    /// Fetches no more than `budget` bytes ahead; what one step needs is fetched in any case. With less than twice the budget in
    /// the cache of `dataset`, blocks may be given up before they are used.
    #[must_use]
    pub fn new(dataset: Arc<Dataset>, budget: u64, runtime: &Handle) -> Self {
        Self {
            dataset,
            runtime: runtime.clone(),
            budget,
            steps: VecDeque::new(),
            blocks: HashMap::new(),
            bytes: 0,
            turns: Arc::new(Semaphore::new(FETCHES)),
            fetches: JoinSet::new(),
        }
    }

    /// Whether the blocks of another step may be fetched.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes < self.budget && self.steps.len() < STEPS
    }

    /// Bytes of all blocks that the steps ahead need.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins to fetch what step `step`, which comes after all others, needs: rows of columns.
    ///
    /// # Errors
    /// There is no such row or column.
    pub fn push(&mut self, step: u64, rows: &[(&'static str, Vec<u64>)]) -> Result<(), ShardError> {
        while self.fetches.try_join_next().is_some() {}
        let mut keys = Vec::new();
        for &(column, ref rows) in rows {
            for (part, key, bytes) in self.dataset.needs(column, rows)? {
                keys.push(key);
                if let Some(needed) = self.blocks.get_mut(&key) {
                    needed.steps += 1;
                    continue;
                }
                self.blocks.insert(key, Needed { steps: 1, bytes });
                self.bytes += bytes;
                let (dataset, turns) = (self.dataset.clone(), self.turns.clone());
                let fetch = async move {
                    let _turn = turns.acquire().await;
                    if let Err(error) = dataset.bring(column, part, key).await {
                        // The batch that needs the block will try again, and say so.
                        tracing::debug!("not fetched ahead: {error}");
                    }
                };
                self.fetches.spawn_on(fetch, &self.runtime);
            }
        }
        self.steps.push_back((step, keys));
        Ok(())
    }

    /// The steps up to `step` have what they need.
    pub fn done(&mut self, step: u64) {
        while self.steps.front().is_some_and(|(first, _)| *first <= step) {
            let Some((_, keys)) = self.steps.pop_front() else { return };
            for key in keys {
                let Some(needed) = self.blocks.get_mut(&key) else { continue };
                needed.steps -= 1;
                if needed.steps == 0 {
                    self.bytes -= needed.bytes;
                    self.blocks.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::sampler::SampleOrder;
    use crate::shards::{Column, DType, Schema, ShardWriter};
    use crate::storage::faulty::Faults;

    /// Bytes of a row, which is a block of its own.
    const ROW: usize = 1 << 20;
    const ROWS: u64 = 24;
    const BATCH: u64 = 2;

    async fn open(cache: usize) -> (Arc<Faults>, Arc<Dataset>) {
        let (faults, store) = Faults::store();
        let schema = Schema { columns: vec![Column::hot("moments", DType::U8, &[ROW])] };
        let writer = ShardWriter::open(store.clone(), schema, json!({}), ROWS, 8).await.unwrap();
        for index in 0..3 {
            writer.write_shard(index, &[vec![index as u8; 8 * ROW]]).await.unwrap();
        }
        writer.commit().await.unwrap();
        let dataset = Arc::new(Dataset::open(store, cache).await.unwrap());
        faults.reads.store(0, SeqCst);
        (faults, dataset)
    }

    /// Three epochs with a cache of twice the budget: every block is fetched once per epoch at most, before its batch asks for it, and what is
    /// ahead stays within the budget.
    #[tokio::test]
    async fn blocks_are_there_before_they_are_needed_and_never_more_than_the_budget() {
        let budget = 6 * ROW as u64;
        let (faults, dataset) = open(12 * ROW).await;
        let order = SampleOrder::new(5, &dataset.manifest().shard_rows(), 1).unwrap();
        let rows = |step: u64| order.samples(step * BATCH..(step + 1) * BATCH);
        let mut ahead = ReadAhead::new(dataset.clone(), budget, &Handle::current());
        let mut next = 0;
        for step in 0..3 * ROWS / BATCH {
            while ahead.has_room() {
                ahead.push(next, &[("moments", rows(next))]).unwrap();
                next += 1;
            }
            assert!(next > step + 1 && ahead.bytes() <= budget, "step {step}, {next}: {} bytes", ahead.bytes());
            tokio::time::timeout(Duration::from_secs(10), async { while ahead.fetches.join_next().await.is_some() {} })
                .await
                .unwrap();
            let before = faults.reads.load(SeqCst);
            // Less than once where a block comes late in one epoch and early in the next.
            assert!(before <= next * BATCH, "{before} fetches for {next} steps");
            let found = dataset.read_rows("moments", &rows(step)).await.unwrap();
            assert!(found.chunks(ROW).zip(rows(step)).all(|(found, row)| found.iter().all(|byte| u64::from(*byte) == row / 8)));
            assert_eq!(faults.reads.load(SeqCst), before, "step {step}: what was fetched ahead was there");
            ahead.done(step);
        }
    }

    /// A block that several steps need counts once, until the last of them has it.
    #[tokio::test]
    async fn a_block_is_counted_until_the_last_step_has_it() {
        let (_, dataset) = open(8 * ROW).await;
        let mut ahead = ReadAhead::new(dataset, 3 * ROW as u64, &Handle::current());
        ahead.push(0, &[("moments", vec![1, 2])]).unwrap();
        ahead.push(1, &[("moments", vec![2, 1, 2])]).unwrap();
        assert!(ahead.has_room() && ahead.bytes() == 2 * ROW as u64);
        ahead.push(2, &[("moments", vec![2, 3])]).unwrap();
        assert!(!ahead.has_room());
        let left = [1, 2].map(|step| {
            ahead.done(step);
            ahead.bytes()
        });
        assert_eq!(left, [2 * ROW as u64, 0]);
        assert!(ahead.push(3, &[("moments", vec![ROWS])]).is_err());
    }

    /// An unreachable store is the batch's to report; what is fetched later is there.
    #[tokio::test]
    async fn failures_ahead_are_left_to_the_batch() {
        let (faults, dataset) = open(8 * ROW).await;
        let mut ahead = ReadAhead::new(dataset.clone(), 3 * ROW as u64, &Handle::current());
        faults.unreachable.store(true, SeqCst);
        ahead.push(0, &[("moments", vec![1])]).unwrap();
        while ahead.fetches.join_next().await.is_some() {}
        assert!(dataset.read_rows("moments", &[1]).await.is_err());
        faults.unreachable.store(false, SeqCst);
        assert!(dataset.read_rows("moments", &[1]).await.is_ok());
    }
}
