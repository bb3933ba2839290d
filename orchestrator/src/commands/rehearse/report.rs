//! What a rehearsal has shown, read off the files of the two runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use common::checkpoint::CheckpointStore;
use common::journal::{self, Entry, Event};
use common::rehearsal::Struck;
use common::run_dir::RunDir;
use common::storage::Store;
use serde::Serialize;
use serde_json::Value;

/// Figures of a rehearsal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// Steps done when it happened.
    step: u64,
    /// Seconds until the coordinator knew.
    detected_after: Option<f64>,
    /// Seconds until the next step was done.
    recovered_after: Option<f64>,
    /// Steps that were done again.
    steps_redone: Option<u64>,
    /// The failure as it was recorded, if it was one.
    failure: Option<String>,
    /// Steps whose loss is not the undisturbed run's, bit by bit.
    steps_that_differ: usize,
    /// Steps of both runs.
    steps: usize,
    /// Parts of the last checkpoint, as weights and optimizer, that are not the undisturbed run's.
    parts_that_differ: Vec<String>,
    /// Whether the run went on with fewer workers for a while, which sums in another order.
    fewer_workers: bool,
}

impl Report {
    pub(super) fn of(undisturbed: &RunDir, disturbed: &RunDir) -> anyhow::Result<Self> {
        let path = disturbed.rehearsal();
        let struck = std::fs::read(&path).with_context(|| format!("{}: it never happened", path.display()))?;
        let struck: Struck = serde_json::from_slice(&struck)?;
        let moment = humantime::parse_rfc3339(&struck.time)?;
        let entries = journal::read(&disturbed.journal())?;
        let noticed = |event: &Event| matches!(event, Event::Failed { .. } | Event::StopRequested);
        let first_step = |event: &Event| if let Event::FirstStep { step } = event { Some(*step) } else { None };
        let worlds: Vec<usize> = entries.iter().filter_map(|entry| world(&entry.event)).collect();
        let (expected, found) = (losses(undisturbed)?, losses(disturbed)?);
        let differs = expected.keys().filter(|step| expected.get(*step) != found.get(*step)).count();
        Ok(Self {
            step: struck.step,
            detected_after: after(&entries, moment, |event| noticed(event).then_some(())).map(|(seconds, ())| seconds),
            recovered_after: after(&entries, moment, first_step).map(|(seconds, _)| seconds),
            steps_redone: after(&entries, moment, first_step).map(|(_, step)| (struck.step + 1).saturating_sub(step)),
            failure: entries.iter().find(|entry| matches!(entry.event, Event::Failed { .. })).map(|entry| entry.reason.clone()),
            steps_that_differ: differs,
            steps: expected.len(),
            parts_that_differ: differing_parts(undisturbed, disturbed)?,
            fewer_workers: worlds.iter().any(|world| Some(world) != worlds.first()),
        })
    }

    /// Whether the run ended as if nothing had happened.
    pub(super) fn is_good(&self) -> bool {
        self.fewer_workers || (self.steps_that_differ == 0 && self.parts_that_differ.is_empty())
    }
}

fn world(event: &Event) -> Option<usize> {
    if let Event::GenerationStarted { world, .. } = event { Some(*world) } else { None }
}

/// Seconds from `moment` to the first entry after it of which `what` finds something, and that.
fn after<T>(entries: &[Entry], moment: SystemTime, what: impl Fn(&Event) -> Option<T>) -> Option<(f64, T)> {
    entries.iter().find_map(|entry| {
        let time = humantime::parse_rfc3339(&entry.time).ok()?;
        // Both times are cut off at the millisecond.
        let later = (time + Duration::from_millis(1)).duration_since(moment).ok()?;
        Some((later.as_secs_f64(), what(&entry.event)?))
    })
}

/// The loss of every step, as it was computed last.
fn losses(run: &RunDir) -> anyhow::Result<BTreeMap<u64, Value>> {
    let path = run.metrics();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // A record of an evaluation has none.
    Ok(records.filter_map(|record| Some((record["step"].as_u64()?, record.get("loss")?.clone()))).collect())
}

/// The parts of the newest checkpoints that are not byte by byte the same.
fn differing_parts(undisturbed: &RunDir, disturbed: &RunDir) -> anyhow::Result<Vec<String>> {
    let [expected, found] = [digests(undisturbed)?, digests(disturbed)?];
    let names = expected.keys().chain(found.keys().filter(|name| !expected.contains_key(*name)));
    Ok(names.filter(|name| expected.get(*name) != found.get(*name)).cloned().collect())
}

fn digests(run: &RunDir) -> anyhow::Result<BTreeMap<String, String>> {
    let store = CheckpointStore::new(Store::open(&run.checkpoints().display().to_string())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (manifest, _) = runtime.block_on(store.newest_verified())?;
    let manifest = manifest.with_context(|| format!("{}: no checkpoint", run.path().display()))?;
    Ok(manifest.parts.into_iter().map(|part| (part.name, part.blake3)).collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |value: Option<f64>| value.map_or("never".into(), |value| format!("{value:.2} s"));
        writeln!(f, "happened at      step {}", self.step)?;
        if let Some(failure) = &self.failure {
            writeln!(f, "was recorded as  {failure}")?;
        }
        writeln!(f, "detected after   {}", seconds(self.detected_after))?;
        writeln!(f, "next step after  {}", seconds(self.recovered_after))?;
        writeln!(f, "steps redone     {}", self.steps_redone.map_or("none".into(), |steps| steps.to_string()))?;
        let same = self.steps - self.steps_that_differ;
        writeln!(f, "samples, losses  {same} of {} steps bit by bit those of the undisturbed run", self.steps)?;
        match &self.parts_that_differ[..] {
            [] => write!(f, "final state      the same, byte by byte")?,
            parts => write!(f, "final state      differs in {}", parts.join(", "))?,
        }
        if self.fewer_workers {
            write!(f, "\n                 (it went on with fewer workers for a while, which sums in another order)")?;
        }
        Ok(())
    }
}
