//! A job's voice: progress goes to the log and to the coordinator, and never makes the job wait.

use common::control::{Activity, Checkup, ControlClient, Evaluation, FromWorker, Phase, Progress, Setback};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reports progress. Clones share the connection and the measurement of the rate.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
}

struct Shared {
    coordinator: Option<ControlClient>,
    activity: Arc<Activity>,
    last: Mutex<Option<(Instant, u64)>>,
    done: AtomicU64,
    /// Whether any unit was done since the worker started.
    stepped: AtomicBool,
}

impl Reporter {
    /// A reporter that only logs: workers without a coordinator, and tests.
    pub fn log_only() -> Self {
        Self::new(None, Arc::default())
    }

    /// A reporter that also tells the coordinator, whose heartbeats tell `activity`.
    pub fn to_coordinator(client: ControlClient, activity: Arc<Activity>) -> Self {
        Self::new(Some(client), activity)
    }

    /// Says what the job's thread does from now on; returns what it did before.
    pub fn enter(&self, phase: Phase) -> Phase {
        self.shared.activity.enter(phase)
    }

    /// What the job's thread is doing.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.shared.activity
    }

    /// Says that `done` units are done, without any words. Cheap enough for every step.
    pub fn step(&self, done: u64) {
        self.shared.done.store(done, Ordering::Relaxed);
        self.shared.activity.step(done);
        if !self.shared.stepped.swap(true, Ordering::Relaxed) {
            self.send(FromWorker::FirstStep { step: done });
        }
    }

    /// Says that the job goes on after `done` units that were done before.
    pub fn resume_at(&self, done: u64) {
        self.shared.done.store(done, Ordering::Relaxed);
        self.shared.activity.step(done);
    }

    fn new(coordinator: Option<ControlClient>, activity: Arc<Activity>) -> Self {
        Self {
            shared: Arc::new(Shared {
                coordinator,
                activity,
                last: Mutex::new(None),
                done: AtomicU64::new(0),
                stepped: AtomicBool::new(false),
            }),
        }
    }

    /// Says that `done` of `total` `unit`s (a plural: `steps`, `scenes`) are done, with further named figures.
    pub fn progress(&self, done: u64, total: u64, unit: &str, fields: &[(&str, f64)]) {
        self.step(done);
        let rate = self.rate(done);
        let fields: BTreeMap<String, f64> = fields.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let mut line = format!("{done}/{total} {unit}, {rate:.1}/s");
        for (name, value) in &fields {
            let _ = write!(line, ", {name} {}", brief(*value));
        }
        tracing::info!("{line}");
        self.send(FromWorker::Progress(Progress { done, total, unit: unit.to_owned(), rate, fields }));
    }

    /// Says that the checkpoint of `step` is complete, `seconds` after somebody wanted it.
    pub fn checkpoint_committed(&self, step: u64, seconds: f64) {
        tracing::info!(step, seconds, "checkpoint committed");
        self.send(FromWorker::CheckpointCommitted { step, seconds });
    }

    /// Says that the checkpoint of `step` was not saved, and that training goes on.
    pub fn checkpoint_failed(&self, step: u64, cause: String) {
        tracing::error!("the checkpoint of step {step} was not saved, and training goes on: {cause}");
        self.send(FromWorker::CheckpointFailed { step, cause });
    }

    /// Says what this worker's device is and how fast it is.
    pub fn checkup(&self, checkup: Checkup) {
        self.send(FromWorker::Checkup(checkup));
    }

    /// Says that the gradients of a step were no numbers, and what was done about it.
    pub fn setback(&self, setback: Setback) {
        tracing::warn!("{setback}");
        self.send(FromWorker::Setback(setback));
    }

    /// Says how the model does on held-out images.
    pub fn evaluated(&self, evaluation: Evaluation) {
        tracing::info!("held-out images after step {}: {evaluation}", evaluation.step);
        if let Some(why) = &evaluation.collapse {
            tracing::warn!("the slots look collapsed: {why}");
        }
        self.send(FromWorker::Evaluated(evaluation));
    }

    /// The id under which workers meet: rank 0 brings its `own`, and all get that one.
    ///
    /// # Errors
    /// There is no coordinator to ask, or no id within the time.
    pub fn meet(&self, own: Option<String>, within: Duration) -> Result<String, String> {
        let Some(client) = &self.shared.coordinator else {
            return own
                .ok_or_else(|| "NCCL workers find each other through the coordinator: start them by `orchestrator launch`".into());
        };
        if let Some(own) = own {
            client.offer_rendezvous(own);
        }
        client.rendezvous(within).map_err(|error| error.to_string())
    }

    /// Sends the last message, [`FromWorker::Finished`] or [`FromWorker::Failed`], and waits shortly until it is read.
    pub fn finish(&self, last: FromWorker) {
        if let Some(client) = &self.shared.coordinator {
            client.finish(last);
        }
    }

    /// Units done as of the last report.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    fn send(&self, message: FromWorker) {
        if let Some(client) = &self.shared.coordinator {
            client.send(message);
        }
    }

    /// Units per second since the last report.
    fn rate(&self, done: u64) -> f64 {
        let now = Instant::now();
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = match *last {
            Some((then, before)) => done.saturating_sub(before) as f64 / (now - then).as_secs_f64().max(1e-9),
            None => 0.0,
        };
        *last = Some((now, done));
        rate
    }
}

/// A figure in a log line: four decimals, or powers of ten when those would hide it.
fn brief(value: f64) -> String {
    if value == 0.0 || value.abs() >= 0.01 { format!("{value:.4}") } else { format!("{value:.2e}") }
}
