//! Where a run comes from: program, configuration, data, machines and dates, as far as its files tell.

use std::collections::{BTreeMap, BTreeSet};

use common::config::{Config, config_hash};
use common::journal::{Event, Revisions};

use super::facts::Checkpoints;
use crate::commands::words::{counted, names};
use crate::observe::{Observer, View};
use crate::story::Time;

/// Hosts, devices and Slurm jobs that are named.
const NAMED: usize = 16;
/// What is said of a thing that the files do not tell.
const UNKNOWN: &str = "not known yet";

/// Names and values.
pub(super) fn provenance(
    config: Option<&Config>,
    observer: &Observer,
    view: &View,
    checkpoints: &Checkpoints,
) -> Vec<(&'static str, String)> {
    let seen = Seen::of(observer);
    let or_unknown = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| UNKNOWN.into());
    let all = |names_of: &BTreeSet<String>| names(&names_of.iter().collect::<Vec<_>>(), NAMED);
    let fingerprint = match checkpoints {
        Checkpoints::Stored(rows) => rows.iter().find_map(|row| row.data_fingerprint.clone()),
        Checkpoints::Told(..) => None,
    };
    let devices = seen.devices.iter().map(|(device, ranks)| format!("{device} ({})", counted(ranks.len(), "worker")));
    let devices: Vec<String> = devices.collect();
    vec![
        ("orchestrator", or_unknown(Some(all(&seen.orchestrators)))),
        ("worker", or_unknown(Some(all(&seen.workers)))),
        ("configuration", if seen.configs.is_empty() { "in no git checkout".into() } else { all(&seen.configs) }),
        ("seed", or_unknown(config.map(|config| config.run.seed.to_string()))),
        ("config hash", or_unknown(config.map(config_hash))),
        ("data set", fingerprint.unwrap_or_else(|| "told by its first checkpoint".into())),
        ("workers", or_unknown((view.outline.world > 0).then(|| view.outline.world.to_string()))),
        ("hosts", or_unknown(Some(all(&seen.hosts)))),
        ("devices", or_unknown(Some(names(&devices, NAMED)))),
        ("Slurm jobs", if seen.slurm_jobs.is_empty() { "none".into() } else { all(&seen.slurm_jobs) }),
        ("launches", seen.launches.to_string()),
        ("generations", view.outline.generation.to_string()),
        ("begun", or_unknown(view.ledger.as_ref().map(|ledger| date(ledger.from)))),
        ("last sign of life", or_unknown(view.sign.map(date))),
    ]
}

fn date(time: Time) -> String {
    std::time::UNIX_EPOCH.checked_add(time).map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// `0.1.0, git 0123456789ab`.
fn at_revision(version: &str, revision: Option<&str>) -> String {
    format!("{version}, {}", revision.map_or_else(|| "git revision unknown".into(), |revision| format!("git {revision}")))
}

/// What the journal has seen.
#[derive(Default)]
struct Seen {
    /// Versions and git revisions.
    orchestrators: BTreeSet<String>,
    workers: BTreeSet<String>,
    /// Git revisions of the checkouts in which configurations lay.
    configs: BTreeSet<String>,
    hosts: BTreeSet<String>,
    slurm_jobs: BTreeSet<String>,
    /// The ranks that had each kind of device.
    devices: BTreeMap<String, BTreeSet<usize>>,
    launches: usize,
}

impl Seen {
    fn of(observer: &Observer) -> Self {
        let mut seen = Self::default();
        for entry in &observer.entries {
            match &entry.event {
                Event::Launched { version, slurm_job, host, revisions, .. } => {
                    seen.launches += 1;
                    let Revisions { orchestrator, worker, config } = revisions;
                    seen.orchestrators.insert(at_revision(version, orchestrator.as_deref()));
                    // Both have the same version.
                    seen.workers.insert(at_revision(version, worker.as_deref()));
                    seen.configs.extend(config.as_ref().map(|revision| format!("git {revision}")));
                    seen.slurm_jobs.extend(slurm_job.clone());
                    seen.hosts.extend(Some(host.clone()).filter(|host| !host.is_empty()));
                }
                Event::GenerationStarted { hosts, .. } => seen.hosts.extend(hosts.iter().cloned()),
                Event::Submitted { slurm_job } | Event::Requeued { slurm_job } => {
                    seen.slurm_jobs.insert(slurm_job.clone());
                }
                Event::WorkerJoined { rank, host, device, .. } => {
                    seen.hosts.insert(host.clone());
                    // cuda:3 is the fourth device of that kind on its host.
                    let kind = device.split(':').next().unwrap_or(device).to_owned();
                    seen.devices.entry(kind).or_default().insert(*rank);
                }
                _ => {}
            }
        }
        if let Some(findings) = observer.status.as_ref().and_then(|status| status.checkup.as_ref()) {
            seen.devices = BTreeMap::from([(findings.device.clone(), (0..findings.workers).collect())]);
        }
        seen
    }
}
