//! The order of samples: pure arithmetic over a position in the stream, with nothing to save but the position.
//!
//! Training reads positions 0, 1, 2, ...; position `p` belongs to epoch `p / N` and every epoch is a different permutation of all N
//! rows. The permutation is two keyed bijections: shards are permuted and taken in windows of a few, and rows are permuted inside a
//! window, so that a worker needs only the blocks of one window at a time. World size, workers and prefetch never enter: global batch
//! `k` is positions `[k*B, (k+1)*B)`, and each rank takes its contiguous part ([`rank_positions`]). The last batch of an epoch takes
//! its missing samples from the next epoch; nothing is repeated or dropped.

use std::ops::Range;

/// Rounds of the Feistel network. Domains of a handful of rows mix slowly: with 10 rounds no row's place is favoured measurably.
const ROUNDS: usize = 10;

/// There is no row to put into an order.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the data set has no rows, so there is nothing to sample")]
pub struct NoRows;

/// The order in which the rows of a sharded data set are seen. The same on every platform and for every world size.
#[derive(Debug, Clone)]
pub struct SampleOrder {
    seed: u64,
    /// First global row of every shard, and the number of rows as the last element.
    starts: Vec<u64>,
    /// Shards that are shuffled together.
    window: usize,
}

impl SampleOrder {
    /// `rows_per_shard` in the order of the manifest; `window` shards are shuffled together, 0 for all of them.
    pub fn new(seed: u64, rows_per_shard: &[u64], window: usize) -> Result<Self, NoRows> {
        let mut starts = vec![0];
        let mut total = 0;
        for rows in rows_per_shard {
            total += rows;
            starts.push(total);
        }
        if total == 0 {
            return Err(NoRows);
        }
        let shards = rows_per_shard.len();
        let window = if window == 0 { shards } else { window.min(shards) };
        Ok(Self { seed, starts, window })
    }

    /// Rows in one epoch.
    pub fn rows(&self) -> u64 {
        self.starts[self.shards()]
    }

    /// The global rows at `positions` of the endless stream, in order. The plan of windows is made once per call and epoch, so ask for whole
    /// batches.
    pub fn samples(&self, positions: Range<u64>) -> Vec<u64> {
        let mut rows = Vec::with_capacity((positions.end.saturating_sub(positions.start)) as usize);
        let mut position = positions.start;
        while position < positions.end {
            let epoch = self.epoch(position / self.rows());
            let within = position % self.rows();
            let count = (self.rows() - within).min(positions.end - position);
            epoch.rows(within..within + count, &mut rows);
            position += count;
        }
        rows
    }

    fn shards(&self) -> usize {
        self.starts.len() - 1
    }

    fn shard_rows(&self, shard: usize) -> u64 {
        self.starts[shard + 1] - self.starts[shard]
    }

    fn epoch(&self, epoch: u64) -> Epoch<'_> {
        let key = mix(self.seed ^ mix(epoch));
        let shard_order = Permutation::new(key, self.shards() as u64);
        let mut shards: Vec<u64> = (0..self.shards() as u64).collect();
        shard_order.apply_to_all(&mut shards);
        let shards: Vec<usize> = shards.into_iter().map(|shard| shard as usize).collect();
        let mut ends = Vec::with_capacity(shards.len());
        let mut end = 0;
        for &shard in &shards {
            end += self.shard_rows(shard);
            ends.push(end);
        }
        Epoch { order: self, key, shards, ends }
    }
}

/// One epoch's plan: the shards in their permuted order.
struct Epoch<'a> {
    order: &'a SampleOrder,
    key: u64,
    shards: Vec<usize>,
    /// Rows of the epoch up to and including each of `shards`.
    ends: Vec<u64>,
}

impl Epoch<'_> {
    /// Adds the rows at `positions` to `rows`.
    fn rows(&self, mut positions: Range<u64>, rows: &mut Vec<u64>) {
        while !positions.is_empty() {
            let window = self.place_of(positions.start) / self.order.window;
            let first = window * self.order.window;
            let last = (first + self.order.window).min(self.shards.len());
            let (start, end) = (self.start_of(first), self.ends[last - 1]);
            let order = Permutation::new(mix(self.key ^ mix(window as u64 + 1)), end - start);
            let until = end.min(positions.end);
            let mut shuffled: Vec<u64> = (positions.start - start..until - start).collect();
            order.apply_to_all(&mut shuffled);
            rows.extend(shuffled.iter().map(|shuffled| self.row(start + shuffled)));
            positions.start = until;
        }
    }

    /// The global row that is the epoch's row number `position` before rows are shuffled.
    fn row(&self, position: u64) -> u64 {
        let place = self.place_of(position);
        self.order.starts[self.shards[place]] + (position - self.start_of(place))
    }

    /// Which place in the order of shards holds the epoch's row number `position` (empty shards hold none).
    fn place_of(&self, position: u64) -> usize {
        self.ends.partition_point(|&end| end <= position)
    }

    fn start_of(&self, place: usize) -> u64 {
        if place == 0 { 0 } else { self.ends[place - 1] }
    }
}

/// A keyed bijection of `0..size`: a balanced Feistel network over the next even power of two, walked until it lands inside.
struct Permutation {
    size: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn new(key: u64, size: u64) -> Self {
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| mix(key.wrapping_add((round as u64 + 1).wrapping_mul(GOLDEN))));
        Self { size, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where each of `indices`, all below `size`, goes. The network permutes a domain less than four times as large, so following its
    /// cycle from inside comes back inside after a few steps, and does so at a different place for every start. All take a step before those that are
    /// outside take the next: a processor works on several at a time where it need not guess which of them are there.
    fn apply_to_all(&self, indices: &mut [u64]) {
        indices.iter_mut().for_each(|value| *value = self.network(*value));
        let mut outside: Vec<usize> = (0..indices.len()).collect();
        loop {
            outside.retain(|&place| indices[place] >= self.size);
            if outside.is_empty() {
                return;
            }
            outside.iter().for_each(|&place| indices[place] = self.network(indices[place]));
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// 2^64 divided by the golden ratio, odd: consecutive multiples are spread evenly over 64 bits.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: every input bit changes every output bit with probability one half.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The positions that `rank` of `world` takes in global batch `step`: contiguous parts whose sizes differ by at most one.
pub fn rank_positions(step: u64, global_batch: u64, rank: u64, world: u64) -> Range<u64> {
    let start = step * global_batch;
    start + global_batch * rank / world..start + global_batch * (rank + 1) / world
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch_rows(order: &SampleOrder, epoch: u64) -> Vec<u64> {
        order.samples(epoch * order.rows()..(epoch + 1) * order.rows())
    }

    /// The order is part of the format: a run that resumes must see what it would have seen. Changing these numbers breaks that.
    #[test]
    fn the_order_is_frozen() {
        let order = SampleOrder::new(42, &[5, 4, 6, 1], 2).unwrap();
        assert_eq!(epoch_rows(&order, 0), GOLDEN_WINDOWED);
        let order = SampleOrder::new(7, &[1 << 40], 0).unwrap();
        assert_eq!(order.samples(0..4), GOLDEN_LARGE);
    }
    const GOLDEN_WINDOWED: [u64; 16] = [2, 15, 0, 3, 1, 4, 6, 14, 5, 10, 9, 8, 12, 11, 13, 7];
    const GOLDEN_LARGE: [u64; 4] = [947_166_379_809, 276_012_844_221, 316_134_949_184, 23_256_775_676];

    #[test]
    fn every_small_domain_is_permuted() {
        for size in 1..=600 {
            for key in [0, 1, u64::MAX] {
                let permutation = Permutation::new(key, size);
                let mut images: Vec<_> = (0..size).collect();
                permutation.apply_to_all(&mut images);
                images.sort_unstable();
                assert!(images.iter().copied().eq(0..size), "size {size} key {key}");
            }
        }
    }

    /// Over many epochs every row visits every place equally often: chi-square with (n-1)^2 degrees of freedom.
    #[test]
    fn no_place_is_favoured() {
        for size in [2_usize, 3, 5, 8, 13] {
            let order = SampleOrder::new(3, &[size as u64], 0).unwrap();
            let epochs = 4000;
            let mut counts = vec![0_f64; size * size];
            for epoch in 0..epochs {
                for (place, row) in epoch_rows(&order, epoch).into_iter().enumerate() {
                    counts[place * size + row as usize] += 1.0;
                }
            }
            let expected = epochs as f64 / size as f64;
            let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
            let freedom = ((size - 1) * (size - 1)) as f64;
            assert!(chi_square < freedom + 5.0 * (2.0 * freedom).sqrt(), "size {size}: chi-square {chi_square} for {freedom}");
        }
    }

    #[test]
    fn a_data_set_without_rows_has_no_order() {
        assert_eq!(SampleOrder::new(0, &[], 0).unwrap_err(), NoRows);
        assert_eq!(SampleOrder::new(0, &[0, 0], 1).unwrap_err(), NoRows);
    }

    /// A stretch of a run: from the step of a checkpoint up to another, by so many workers.
    struct Leg {
        steps: Range<u64>,
        world: u64,
    }

    /// The global batches that training goes by in the end, when each leg begins at a checkpoint of the one before and does again what came
    /// after it. Every worker knows its step, its rank and the world, and nothing else.
    fn trajectory(order: &SampleOrder, batch: u64, legs: &[Leg]) -> Vec<Vec<u64>> {
        let mut batches: Vec<Vec<u64>> = Vec::new();
        for Leg { steps, world } in legs {
            batches.truncate(steps.start as usize);
            for step in steps.clone() {
                let parts = (0..*world).map(|rank| order.samples(rank_positions(step, batch, rank, *world)));
                batches.push(parts.flatten().collect());
            }
        }
        batches
    }

    /// All sizes, batches, worlds and places of two resizes that are small: each global batch is the one of a single worker that was never
    /// interrupted, and each epoch has every sample once.
    #[test]
    fn two_resizes_change_no_batch_and_no_epoch() {
        let mut runs = 0;
        for rows in 1..=7_u64 {
            let shards: Vec<u64> = (0..rows.div_ceil(3)).map(|shard| (rows - 3 * shard).min(3)).collect();
            for batch in 1..=rows.min(4) {
                let order = SampleOrder::new(rows * 7 + batch, &shards, 2).unwrap();
                // Two epochs, whatever the batch.
                let last = (2 * rows).div_ceil(batch);
                let alone = trajectory(&order, batch, &[Leg { steps: 0..last, world: 1 }]);
                for epoch in alone.concat().chunks_exact(rows as usize) {
                    let mut epoch = epoch.to_vec();
                    epoch.sort_unstable();
                    assert!(epoch.into_iter().eq(0..rows), "{rows} rows in batches of {batch}");
                }
                let ends = (0..=last).flat_map(|first| (0..=last).map(move |second| (first, second)));
                for (first, second) in ends {
                    // The checkpoints lie one step before the ends, so that a step is done twice.
                    let (from_first, from_second) = (first.saturating_sub(1), second.saturating_sub(1));
                    if second < from_first {
                        continue;
                    }
                    for worlds in 0..27 {
                        let [a, b, c] = [worlds % 3 + 1, worlds / 3 % 3 + 1, worlds / 9 + 1];
                        let legs = [(0..first, a), (from_first..second, b), (from_second..last, c)];
                        let legs = legs.map(|(steps, world)| Leg { steps, world });
                        assert_eq!(
                            trajectory(&order, batch, &legs),
                            alone,
                            "{rows} rows, batch {batch}: {a}, {b} from {from_first}, {c} from {from_second}"
                        );
                        runs += 1;
                    }
                }
            }
        }
        assert!(runs > 10_000, "{runs}");
    }

    fn shards() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(0_u64..40, 1..12).prop_filter("some rows", |shards| shards.iter().sum::<u64>() > 0)
    }

    proptest! {
        #[test]
        fn every_epoch_sees_every_row_once(seed: u64, shards in shards(), window in 0_usize..14, epoch in 0_u64..1 << 40) {
            let order = SampleOrder::new(seed, &shards, window).unwrap();
            let mut rows = epoch_rows(&order, epoch);
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..order.rows()));
        }

        #[test]
        fn batches_do_not_depend_on_world_size(
            seed: u64, shards in shards(), batch in 1_u64..50, worlds in prop::collection::vec(1_u64..9, 1..6), first in 0_u64..99
        ) {
            // A different world at every step is a run that was resumed elsewhere, again and again.
            let order = SampleOrder::new(seed, &shards, 2).unwrap();
            let steps = first..first + worlds.len() as u64;
            let alone = order.samples(steps.start * batch..steps.end * batch);
            let together: Vec<_> = steps.zip(worlds)
                .flat_map(|(step, world)| (0..world).map(move |rank| rank_positions(step, batch, rank, world)))
                .flat_map(|positions| order.samples(positions))
                .collect();
            prop_assert_eq!(&alone, &together);
            let singly: Vec<_> = (first * batch..first * batch + alone.len() as u64).flat_map(|position| order.samples(position..position + 1)).collect();
            prop_assert_eq!(alone, singly);
        }

        #[test]
        fn a_window_holds_few_shards(seed: u64, count in 1_usize..20, rows in 1_u64..30, window in 1_usize..6) {
            let order = SampleOrder::new(seed, &vec![rows; count], window).unwrap();
            for chunk in epoch_rows(&order, 0).chunks(window * rows as usize) {
                let shards: std::collections::BTreeSet<_> = chunk.iter().map(|row| row / rows).collect();
                prop_assert!(shards.len() <= window);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn many_resizes_of_large_runs_change_no_batch_and_no_epoch(
            seed: u64, shards in prop::collection::vec(1_u64..2000, 1..20), window in 0_usize..9, batch in 1_u64..600,
            legs in prop::collection::vec((1_u64..65, 0_u64..400, 0_u64..50), 2..6)
        ) {
            let order = SampleOrder::new(seed, &shards, window).unwrap();
            let batch = batch.min(order.rows());
            let (mut from, mut all) = (0, Vec::new());
            for (world, length, redone) in legs {
                all.push(Leg { steps: from..from + length, world });
                from = (from + length).saturating_sub(redone);
            }
            // To the end of the second epoch at least.
            let last = (2 * order.rows()).div_ceil(batch).max(from);
            all.push(Leg { steps: from..last, world: 3 });
            let found = trajectory(&order, batch, &all).concat();
            prop_assert_eq!(&found, &order.samples(0..last * batch));
            let mut seen = vec![0_usize; order.rows() as usize];
            for (epoch, rows) in found.chunks_exact(seen.len()).enumerate() {
                rows.iter().for_each(|row| seen[*row as usize] += 1);
                prop_assert!(seen.iter().all(|times| *times == epoch + 1), "epoch {}", epoch);
            }
        }
    }
}
