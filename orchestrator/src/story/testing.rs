//! Stories to tell in tests: events and records at round times.

use std::time::{Duration, UNIX_EPOCH};

use common::control::FailureKind;
use common::job::Job;
use common::journal::{Entry, Event, Revisions};

use super::Record;

/// When the stories of tests begin, in seconds since 1970.
pub(crate) const START: u64 = 1_790_000_000;

/// The journal's text for a time so many seconds after [`START`].
pub(crate) fn clock(seconds: f64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(START) + Duration::from_secs_f64(seconds)).to_string()
}

/// A journal entry.
pub(crate) fn at(seconds: f64, generation: u64, event: Event) -> Entry {
    Entry { time: clock(seconds), generation, event, reason: String::new() }
}

/// A coordinator takes charge of 2 workers.
pub(crate) fn launched(slurm_job: Option<&str>) -> Event {
    let slurm_job = slurm_job.map(ToOwned::to_owned);
    Event::Launched {
        job: Job::Train,
        world: 2,
        version: "0.1.0".into(),
        slurm_job,
        host: "n01".into(),
        revisions: Revisions::default(),
    }
}

/// A generation starts.
pub(crate) fn started() -> Event {
    Event::GenerationStarted { world: 2, hosts: vec!["n01".into(), "n02".into()] }
}

/// Rank 1 fails after so many steps.
pub(crate) fn failed(step: u64) -> Event {
    let kind = Some(FailureKind::OutOfMemory);
    Event::Failed { rank: Some(1), host: Some("n02".into()), step, kind, log: vec!["last words".into()] }
}

/// A record that covers so many seconds, without stalls.
pub(crate) fn record(seconds: f64, generation: u64, step: u64, covers: f64) -> Record {
    Record { step, generation, time: START as f64 + seconds, seconds: Some(covers), ..Record::default() }
}
