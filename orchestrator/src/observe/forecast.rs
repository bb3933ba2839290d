//! When a run will be done, and whether its allocation lasts that long.

use std::time::Duration;

use common::control::Progress;
use serde::Serialize;

use crate::story::Time;

/// What the allocation and the launch are like, as far as known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Terms {
    /// The time.
    pub(crate) now: Time,
    /// When the launch began.
    pub(crate) launched: Option<Time>,
    /// When it made its first step.
    pub(crate) first_step: Option<Time>,
    /// When its allocation ends.
    pub(crate) deadline: Option<Time>,
    /// How long a checkpoint takes.
    pub(crate) checkpoint: Duration,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Forecast {
    /// Seconds of work left.
    pub(crate) eta_seconds: f64,
    /// Seconds until the allocation ends, if it does.
    pub(crate) deadline_seconds: Option<f64>,
    /// How many more allocations like this one the rest takes; 0 if it will be done in this one.
    pub(crate) allocations: Option<u64>,
}

impl Forecast {
    /// The forecast at the present rate; none while nothing gets on.
    pub(crate) fn of(progress: &Progress, terms: &Terms) -> Option<Self> {
        let left = progress.total.saturating_sub(progress.done) as f64;
        let eta_seconds = if left == 0.0 { 0.0 } else { left / progress.rate };
        if !eta_seconds.is_finite() || eta_seconds < 0.0 {
            return None;
        }
        let until_deadline = terms.deadline.map(|deadline| deadline.saturating_sub(terms.now).as_secs_f64());
        let allocations = until_deadline.and_then(|until| allocations(eta_seconds, until, terms));
        Some(Self { eta_seconds, deadline_seconds: until_deadline, allocations })
    }
}

/// Every allocation costs the start and the last save; what is between them is for work.
fn allocations(work: f64, until_deadline: f64, terms: &Terms) -> Option<u64> {
    let save = terms.checkpoint.as_secs_f64();
    let after = work - (until_deadline - save).max(0.0);
    if after <= 0.0 {
        return Some(0);
    }
    let launched = terms.launched?;
    let start = terms.first_step.map_or(0.0, |first| first.saturating_sub(launched).as_secs_f64());
    let usable = terms.deadline?.saturating_sub(launched).as_secs_f64() - start - save;
    (usable > 0.0).then(|| (after / usable).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted_in_allocations() {
        let at = |seconds| Some(Time::from_secs(seconds));
        let terms = Terms {
            now: Time::from_secs(1800),
            launched: at(0),
            first_step: at(300),
            deadline: at(3600),
            checkpoint: Duration::from_secs(100),
        };
        let forecast = |done, rate, terms: &Terms| {
            let progress = Progress { done, total: 10_000, unit: "steps".into(), rate, fields: [].into() };
            Forecast::of(&progress, terms)
        };
        // 1700 s of work fit into this allocation and 3200 s into each further one.
        for (left, allocations) in [(1700, 0), (1701, 1), (4900, 1), (4901, 2)] {
            let expected = Forecast { eta_seconds: left as f64, deadline_seconds: Some(1800.0), allocations: Some(allocations) };
            assert_eq!(forecast(10_000 - left, 1.0, &terms), Some(expected), "{left}");
        }
        assert_eq!(forecast(1, 0.0, &terms), None);
        assert_eq!(forecast(10_000, 0.0, &terms).map(|forecast| forecast.eta_seconds), Some(0.0));
        let open = Terms { deadline: None, ..terms };
        assert_eq!(forecast(0, 2.0, &open), Some(Forecast { eta_seconds: 5000.0, deadline_seconds: None, allocations: None }));
        let hopeless = Terms { first_step: at(3590), ..terms };
        assert_eq!(forecast(0, 1.0, &hopeless).and_then(|forecast| forecast.allocations), None);
    }
}
