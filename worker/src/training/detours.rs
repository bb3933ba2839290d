//! Steps that are done with other noise than the seed's first choice, because that led to numbers that are none (`train.not_finite =
//! "back"`). Part of what a checkpoint holds: a run that goes on from there takes the same ways.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A stretch of steps with other noise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Detour {
    /// Its steps, counted from 0.
    steps: Range<u64>,
    /// Which other noise, counted from 1.
    number: u64,
}

/// All detours of a run, the latest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Detours(Vec<Detour>);

impl Detours {
    /// The noise of `step`: 0 for the first choice.
    pub fn of(&self, step: u64) -> u64 {
        self.0.iter().rev().find(|detour| detour.steps.contains(&step)).map_or(0, |detour| detour.number)
    }

    /// Takes noise that was never taken for `steps`.
    pub fn take(&mut self, steps: Range<u64>) {
        let number = self.0.iter().map(|detour| detour.number).max().unwrap_or_default() + 1;
        self.0.push(Detour { steps, number });
    }

    /// How many there are from `step` on: those without a checkpoint since.
    pub fn since(&self, step: u64) -> usize {
        self.0.iter().filter(|detour| detour.steps.end > step).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_detour_counts_and_survives_being_written_down() {
        let mut detours = Detours::default();
        assert_eq!(detours.of(5), 0);
        detours.take(4..9);
        detours.take(4..7);
        assert_eq!([3, 4, 6, 7, 9].map(|step| detours.of(step)), [0, 2, 2, 1, 0]);
        assert_eq!((detours.since(4), detours.since(7), detours.since(9)), (2, 1, 0));
        let text = serde_json::to_string(&detours).unwrap();
        assert_eq!(serde_json::from_str::<Detours>(&text).unwrap(), detours);
    }
}
