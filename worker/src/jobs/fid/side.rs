//! What is known of the features of one set of images: moments of both halves, and the features of some of them.

use crate::evaluation::fid::{FEATURES, Moments};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Most images of a side whose features are kept for KID, drawn at random: 80 MB.
const KEPT: u64 = 10_000;

/// What is known of the features of one set of images.
pub(super) struct Side {
    pub(super) count: u64,
    /// Those of the first and of the second half of the images.
    pub(super) halves: [Moments; 2],
    /// The rows whose features are kept, ascending.
    rows: Vec<u64>,
    /// Features of these rows, f32 [kept, 2048].
    pub(super) kept: Tensor,
}

impl Side {
    pub(super) fn new(count: u64, seed: u64) -> Self {
        let mut rows: Vec<u64> = (0..count).collect();
        if count > KEPT {
            let chosen = sample(&mut ChaCha8Rng::seed_from_u64(seed), count as usize, KEPT as usize);
            rows = chosen.iter().map(|row| row as u64).collect();
            rows.sort_unstable();
        }
        let kept = Tensor::zeros([rows.len() as i64, FEATURES], (Kind::Float, Device::Cpu));
        Self { count, halves: [Moments::new(FEATURES), Moments::new(FEATURES)], rows, kept }
    }

    /// Takes the features [B, 2048] of some consecutive rows.
    pub(super) fn add(&mut self, rows: Range<u64>, features: &Tensor) {
        let middle = (self.count / 2).clamp(rows.start, rows.end);
        let parts = features.split_with_sizes([middle - rows.start, rows.end - middle].map(|length| length as i64), 0);
        self.halves.iter_mut().zip(&parts).for_each(|(half, part)| half.add(part));
        let kept = [rows.start, rows.end].map(|row| self.rows.partition_point(|&kept| kept < row));
        let places: Vec<i64> = self.rows[kept[0]..kept[1]].iter().map(|row| (row - rows.start) as i64).collect();
        let target = self.kept.narrow(0, kept[0] as i64, places.len() as i64);
        target.shallow_clone().copy_(&features.index_select(0, &Tensor::from_slice(&places)));
    }

    pub(super) fn whole(&self) -> Moments {
        self.halves[0].with(&self.halves[1])
    }

    /// All that is known, each tensor with its name; what is written to them is known from then on.
    pub(super) fn tensors(&self) -> [(&'static str, Tensor); 7] {
        let [first, second] = self.halves.each_ref().map(|half| half.sums().map(Tensor::shallow_clone));
        let ([count, sum, outer], [other_count, other_sum, other_outer]) = (first, second);
        [
            ("first.count", count),
            ("first.sum", sum),
            ("first.outer", outer),
            ("second.count", other_count),
            ("second.sum", other_sum),
            ("second.outer", other_outer),
            ("kept", self.kept.shallow_clone()),
        ]
    }

    /// The kept features of either half.
    pub(super) fn kept_halves(&self) -> [Tensor; 2] {
        let middle = self.rows.partition_point(|&row| row < self.count / 2) as i64;
        [self.kept.narrow(0, 0, middle), self.kept.narrow(0, middle, self.rows.len() as i64 - middle)]
    }
}
