//! A job's voice: progress goes to the log and to the coordinator, and never makes the job wait.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Reports progress. Clones share the rate measurement.
#[derive(Clone)]
pub struct Reporter {
    rate: Arc<Mutex<Option<(Instant, u64)>>>,
}

impl Reporter {
    /// A reporter that only logs: standalone runs and tests.
    pub fn log_only() -> Self {
        Self { rate: Arc::new(Mutex::new(None)) }
    }

    /// Says that `done` of `total` `unit`s are done, with further named figures.
    pub fn progress(&self, done: u64, total: u64, unit: &str, fields: &[(&str, f64)]) {
        let rate = self.rate(done);
        let fields: BTreeMap<String, f64> = fields.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let mut line = format!("{done}/{total} {unit}, {rate:.1}/s");
        for (name, value) in &fields {
            let _ = write!(line, ", {name} {value:.4}");
        }
        tracing::info!("{line}");
    }

    /// Units per second since the last report.
    fn rate(&self, done: u64) -> f64 {
        let now = Instant::now();
        let mut last = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = match *last {
            Some((then, before)) => done.saturating_sub(before) as f64 / (now - then).as_secs_f64().max(1e-9),
            None => 0.0,
        };
        *last = Some((now, done));
        rate
    }
}
