//! The failures of a run: who was first, who followed, what it cost, and what was done about it.

use std::collections::HashMap;

use common::control::FailureKind;
use common::journal::{Entry, Event};
use serde::Serialize;

use super::{Record, Time, time};

/// The first failure of a generation, and its consequences.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Incident {
    /// The generation that it ended.
    pub(crate) generation: u64,
    /// When it was noticed.
    pub(crate) time: String,
    /// What kind of failure; unknown in old journals.
    pub(crate) kind: Option<FailureKind>,
    /// The rank, if it is one rank's failure.
    pub(crate) rank: Option<usize>,
    /// Its host.
    pub(crate) host: Option<String>,
    /// Units of work done before.
    pub(crate) step: u64,
    /// The cause in words, with the true exit code or signal.
    pub(crate) reason: String,
    /// The last lines of that rank's log.
    pub(crate) log: Vec<String>,
    /// Ranks that ended because of it.
    pub(crate) followed: Vec<usize>,
    /// Hosts that were lost with it.
    pub(crate) hosts_lost: Vec<String>,
    /// The file with what was found out about a hang.
    pub(crate) hang_report: Option<String>,
    /// Seconds from the last sign that the generation got on (a metric record, a checkpoint, a line of that log) until the failure was
    /// noticed: at most so long it went unnoticed.
    pub(crate) noticed_within: Option<f64>,
    /// What was done about it.
    pub(crate) aftermath: Aftermath,
}

/// What was done about a failure.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Aftermath {
    /// Nothing that the journal knows of yet.
    Pending,
    /// Another generation was started.
    Restarted(Restart),
    /// The launch ended, and nothing has followed so far.
    GaveUp {
        /// The orchestrator's exit code.
        exit_code: u8,
        /// Its words.
        reason: String,
    },
    /// It had been asked to stop anyway.
    Stopped {
        /// The orchestrator's exit code.
        exit_code: u8,
    },
    /// The job went back into Slurm's queue.
    Requeued {
        /// The Slurm job that continues it.
        slurm_job: String,
    },
}

/// The generation after a failure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Restart {
    /// Its number.
    pub(crate) generation: u64,
    /// Whether a later launch started it, and not the coordinator that saw the failure.
    pub(crate) later_launch: bool,
    /// Steps of the checkpoint that it went on from; none before its first step.
    pub(crate) step: Option<u64>,
    /// Seconds from the failure to its first step.
    pub(crate) recovery: Option<f64>,
    /// Steps that had to be done again.
    pub(crate) redone: Option<u64>,
    /// Whether it failed before it made a step.
    pub(crate) failed_too: bool,
    /// Whether it is over.
    pub(crate) ended: bool,
}

/// All failures, oldest first.
pub(crate) fn incidents(entries: &[Entry], records: &[Record]) -> Vec<Incident> {
    let failures = entries.iter().enumerate().filter(|(_, entry)| matches!(entry.event, Event::Failed { .. }));
    let hosts = hosts(entries);
    failures.filter_map(|(index, _)| incident(index, entries, records, &hosts)).collect()
}

/// The newest failure.
pub(crate) fn newest_incident(entries: &[Entry], records: &[Record]) -> Option<Incident> {
    let index = entries.iter().rposition(|entry| matches!(entry.event, Event::Failed { .. }))?;
    incident(index, entries, records, &hosts(entries))
}

/// The host of each rank of each generation.
fn hosts(entries: &[Entry]) -> HashMap<(u64, usize), &str> {
    let joined = entries.iter().filter_map(|entry| match &entry.event {
        Event::WorkerJoined { rank, host, .. } => Some(((entry.generation, *rank), host.as_str())),
        _ => None,
    });
    joined.collect()
}

fn incident(index: usize, entries: &[Entry], records: &[Record], hosts: &HashMap<(u64, usize), &str>) -> Option<Incident> {
    let entry = &entries[index];
    let Event::Failed { rank, host, step, kind, log } = &entry.event else { return None };
    let generation = entry.generation;
    let after = &entries[index + 1..];
    let own = || after.iter().filter(|entry| entry.generation == generation).map(|entry| &entry.event);
    let recorded = records.iter().filter(|record| record.generation == generation).map(|record| record.step).max();
    let step = (*step).max(recorded.unwrap_or(0));
    let host = host.clone().or_else(|| Some((*hosts.get(&(generation, (*rank)?))?).to_owned()));
    Some(Incident {
        generation,
        time: entry.time.clone(),
        kind: *kind,
        rank: *rank,
        host,
        step,
        reason: entry.reason.clone(),
        log: log.clone(),
        followed: own().filter_map(|event| if let Event::Followed { rank } = event { Some(*rank) } else { None }).collect(),
        hosts_lost: own()
            .filter_map(|event| if let Event::HostLost { host } = event { Some(host.clone()) } else { None })
            .collect(),
        hang_report: hang_report(entries, generation),
        noticed_within: noticed_within(index, entries, records),
        aftermath: aftermath(index, step, entries),
    })
}

/// It is written before or after the failure that it is about.
fn hang_report(entries: &[Entry], generation: u64) -> Option<String> {
    let own = entries.iter().filter(|entry| entry.generation == generation);
    own.filter_map(|entry| if let Event::HangReport { file } = &entry.event { Some(file.clone()) } else { None }).next_back()
}

fn noticed_within(index: usize, entries: &[Entry], records: &[Record]) -> Option<f64> {
    let entry = &entries[index];
    let Event::Failed { log, .. } = &entry.event else { return None };
    let noticed = time(&entry.time)?;
    let recorded = records.iter().filter(|record| record.generation == entry.generation).map(Record::written);
    let progress = |event: &Event| matches!(event, Event::FirstStep { .. } | Event::CheckpointCommitted { .. });
    let journaled = entries[..index].iter().filter(|earlier| earlier.generation == entry.generation && progress(&earlier.event));
    let logged = log.iter().filter_map(|line| time(line.split(' ').next()?));
    let signs = recorded.chain(journaled.filter_map(|entry| time(&entry.time))).chain(logged);
    let last: Time = signs.filter(|sign| *sign <= noticed).max()?;
    Some((noticed - last).as_secs_f64())
}

fn aftermath(index: usize, step: u64, entries: &[Entry]) -> Aftermath {
    let (mut requeued, mut ended, mut launched) = (None, None, false);
    for (place, entry) in entries.iter().enumerate().skip(index + 1) {
        match &entry.event {
            Event::GenerationStarted { .. } => return Aftermath::Restarted(restart(index, place, step, launched, entries)),
            Event::Requeued { slurm_job } => requeued = Some(slurm_job.clone()),
            Event::Ended { exit_code } => ended = Some((*exit_code, entry.reason.clone())),
            Event::Launched { .. } => launched = true,
            _ => {}
        }
    }
    match (requeued, ended) {
        (Some(slurm_job), _) => Aftermath::Requeued { slurm_job },
        (None, Some((exit_code @ (130 | 143), _))) => Aftermath::Stopped { exit_code },
        (None, Some((exit_code, reason))) => Aftermath::GaveUp { exit_code, reason },
        (None, None) => Aftermath::Pending,
    }
}

/// How the generation that starts at entry `start` went on after the failure at entry `failure`.
fn restart(failure: usize, start: usize, step: u64, later_launch: bool, entries: &[Entry]) -> Restart {
    let generation = entries[start].generation;
    let own = || entries[start..].iter().filter(|entry| entry.generation == generation);
    let first = own().find_map(|entry| if let Event::FirstStep { step } = entry.event { Some((step, &entry.time)) } else { None });
    // The first step may be told of a few steps late, so the checkpoint says more exactly where it went on.
    let saved = entries[..start].iter().filter_map(|entry| match entry.event {
        Event::CheckpointCommitted { step, .. } => Some(step),
        _ => None,
    });
    let from = first.map(|(first, _)| saved.filter(|step| *step < first).max().unwrap_or(0));
    let between = |to: &str| Some(time(to)?.saturating_sub(time(&entries[failure].time)?).as_secs_f64());
    Restart {
        generation,
        later_launch,
        step: from,
        recovery: first.and_then(|(_, when)| between(when)),
        redone: from.map(|from| step.saturating_sub(from)),
        failed_too: first.is_none() && own().any(|entry| matches!(entry.event, Event::Failed { .. })),
        ended: own().any(|entry| entry.event == Event::GenerationEnded),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{START, at, failed, launched, record, started};
    use super::*;

    fn saved(step: u64) -> Event {
        Event::CheckpointCommitted { step, seconds: 1.0 }
    }

    fn joined(rank: usize, host: &str) -> Event {
        Event::WorkerJoined { rank, host: host.into(), pid: 1, device: "cpu".into() }
    }

    #[test]
    fn a_failure_its_consequences_its_cost_and_the_restart() {
        let mut entries = vec![at(0.0, 1, launched(None)), at(0.0, 1, started()), at(5.0, 1, Event::FirstStep { step: 1 })];
        entries.extend([at(50.0, 1, saved(500)), at(64.0, 1, failed(612)), at(64.5, 1, Event::Followed { rank: 0 })]);
        entries.extend([at(65.0, 1, Event::HostLost { host: "n02".into() }), at(65.0, 1, Event::GenerationEnded)]);
        let records = [record(61.0, 1, 610, 1.0)];
        let pending = &incidents(&entries, &records)[0];
        assert_eq!(pending.aftermath, Aftermath::Pending);
        assert_eq!((pending.rank, pending.host.as_deref(), pending.step), (Some(1), Some("n02"), 612));
        assert_eq!(
            (&pending.followed[..], &pending.hosts_lost[..], pending.noticed_within),
            (&[0][..], &["n02".into()][..], Some(3.0))
        );

        entries.extend([at(65.0, 2, started()), at(76.0, 2, Event::FirstStep { step: 507 }), at(90.0, 2, saved(1000))]);
        let restart = Restart {
            generation: 2,
            later_launch: false,
            step: Some(500),
            recovery: Some(12.0),
            redone: Some(112),
            failed_too: false,
            ended: false,
        };
        assert_eq!(incidents(&entries, &records)[0].aftermath, Aftermath::Restarted(restart));
    }

    #[test]
    fn giving_up_stopping_requeueing_and_a_launch_later() {
        let ends = |events: Vec<Event>| {
            let mut entries = vec![at(0.0, 1, launched(None)), at(0.0, 1, started()), at(1.0, 1, joined(1, "n09"))];
            let failure = Event::Failed { rank: Some(1), host: None, step: 7, kind: None, log: Vec::new() };
            entries.push(at(2.0, 1, failure));
            entries.extend((3_u32..).zip(events).map(|(seconds, event)| {
                let generation = if event == started() { 2 } else { 1 };
                at(f64::from(seconds), generation, event)
            }));
            let incident = incidents(&entries, &[]).remove(0);
            assert_eq!(incident.host.as_deref(), Some("n09"), "from the journal, where the failure does not say");
            incident.aftermath
        };
        let ended = |exit_code| Event::Ended { exit_code };
        assert_eq!(ends(vec![ended(3)]), Aftermath::GaveUp { exit_code: 3, reason: String::new() });
        assert_eq!(ends(vec![ended(143)]), Aftermath::Stopped { exit_code: 143 });
        let requeued = Event::Requeued { slurm_job: "8".into() };
        assert_eq!(ends(vec![requeued, ended(143)]), Aftermath::Requeued { slurm_job: "8".into() });
        let later = ends(vec![ended(3), launched(None), started()]);
        assert!(matches!(later, Aftermath::Restarted(Restart { later_launch: true, step: None, recovery: None, .. })), "{later:?}");
    }

    #[test]
    fn lines_of_the_log_are_signs_of_life() {
        let line = format!("{} rank=1  INFO worker: step 7", super::super::testing::clock(1.5));
        let failure = Event::Failed { rank: Some(1), host: None, step: 7, kind: None, log: vec!["at worker.rs".into(), line] };
        let entries = [at(0.0, 1, launched(None)), at(0.0, 1, started()), at(2.0, 1, failure)];
        let late = [Record { generation: 1, time: (START + 9) as f64, ..Record::default() }];
        assert_eq!(incidents(&entries, &late)[0].noticed_within, Some(0.5));
    }
}
