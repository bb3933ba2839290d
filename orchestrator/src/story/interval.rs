//! How often to save: the interval between checkpoints that loses the least time, from what a run has measured of itself.

use serde::Serialize;

use super::{Book, Ledger};

/// The checkpoint interval of Daly (A higher order estimate of the optimum checkpoint interval for restart dumps, 2006, equation 37),
/// which refines Young's square root of two times cost times time between failures (1974).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Suggestion {
    /// Seconds of work between two saves.
    pub(crate) seconds: f64,
    /// The same in steps, at the newest pace.
    pub(crate) steps: u64,
    /// Seconds that one checkpoint holds the steps up.
    pub(crate) cost: f64,
    /// Seconds with hosts per failure.
    pub(crate) between_failures: f64,
}

impl Suggestion {
    /// The suggestion for a run; none before its first failure, its first checkpoint and its first pace are known.
    pub(crate) fn of(ledger: &Ledger) -> Option<Self> {
        let pace = ledger.pace?;
        if ledger.failures == 0 || ledger.checkpoints == 0 {
            return None;
        }
        let between_failures = ledger.books.allocated().as_secs_f64() / ledger.failures as f64;
        // Without the shares of newer workers: from the wish to the commit, which a save in the background makes too long.
        let held_up = ledger.books.get(Book::Checkpoint).as_secs_f64();
        let total = if held_up > 0.0 { held_up } else { ledger.checkpoint_seconds };
        let cost = total / ledger.checkpoints as f64;
        let seconds = daly(cost, between_failures)?;
        Some(Self { seconds, steps: ((seconds / pace).round() as u64).max(1), cost, between_failures })
    }
}

/// Seconds of work between two saves that cost `cost` seconds each, with a failure every `between_failures` seconds.
fn daly(cost: f64, between_failures: f64) -> Option<f64> {
    if !(cost > 0.0 && between_failures > 0.0) {
        return None;
    }
    if cost >= 2.0 * between_failures {
        return Some(between_failures);
    }
    let ratio = cost / (2.0 * between_failures);
    Some((2.0 * cost * between_failures).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of the time that is lost with failures at random (Daly's equation 13, restart time 0): the true cost of an interval.
    fn wall_time_per_work(interval: f64, cost: f64, between_failures: f64) -> f64 {
        between_failures * (((interval + cost) / between_failures).exp() - 1.0) / interval
    }

    #[test]
    fn no_other_interval_loses_less() {
        for (cost, between_failures) in [(5.0, 3600.0), (60.0, 7200.0), (300.0, 3000.0)] {
            let best = daly(cost, between_failures).unwrap();
            let lost = wall_time_per_work(best, cost, between_failures);
            for factor in [0.5, 0.8, 1.25, 2.0] {
                let other = wall_time_per_work(best * factor, cost, between_failures);
                assert!(lost < other, "{best} s beside {factor} times that: {lost} and {other}");
            }
        }
        assert_eq!(daly(100.0, 50.0), Some(50.0));
        assert_eq!(daly(0.0, 50.0), None);
    }
}
