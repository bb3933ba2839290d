//! Which objects the probes learn from, and on which they are judged.

use common::config::HoldOut;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The share that is learned from, in percent: the official one.
const LEARNED_FROM: u64 = 83;

/// Of objects in images number `images` (0 and up, below `count`), the numbers of those to learn from and of those held out.
pub fn split(images: &[u64], count: u64, hold_out: HoldOut, seed: u64) -> (Vec<i64>, Vec<i64>) {
    let numbers = 0..images.len() as i64;
    match hold_out {
        HoldOut::Images => numbers.partition(|&number| images[number as usize] < count * LEARNED_FROM / 100),
        HoldOut::Objects => {
            let mut numbers: Vec<i64> = numbers.collect();
            numbers.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            let held_out = numbers.split_off((images.len() as u64 * LEARNED_FROM / 100) as usize);
            (numbers, held_out)
        }
    }
}
