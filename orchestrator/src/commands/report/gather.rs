//! Reads the files of a run for its report. What cannot be read is said in the page, and the rest is there nevertheless.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::config::{Config, load};
use common::job::Job;
use common::journal::{Entry, Event};
use common::run_dir::RunDir;

use super::facts::{Chart, Checkpoints, Facts, Figures, Line, Mark, MarkKind, Settings, Span, Told};
use super::page::COLUMNS;
use super::{pictures, provenance, settings};
use crate::commands::checkpoints::list::{self, Row};
use crate::commands::checkpoints::source::Source;
use crate::commands::status::text::{facts, heading, line};
use crate::commands::{goodput, why};
use crate::exit::{Failure, OrBadInput};
use crate::observe::{Observer, View, Wanted, jobs};
use crate::run_folder::FolderError;
use crate::story::{Curve, HeldOut, Incident, Record, Suggestion, incidents, remarks};

/// How long a store of checkpoints may take to answer: the page is worth having without it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gathers what the page shows.
///
/// # Errors
/// Bad input: that folder holds no run. Else: a journal, status or metrics that are there and cannot be understood.
pub(super) fn gather(run: &RunDir) -> Result<Facts, Failure> {
    let launched = jobs(run);
    if launched.is_empty() && !run.run_toml().is_file() {
        return Err(FolderError::NoRun { folder: run.path().into() }).or_bad_input();
    }
    // The story of a run is that of its training; of what comes before and after it, a line each.
    let job = if launched.contains(&Job::Train) { Job::Train } else { launched.first().copied().unwrap_or(Job::Train) };
    let observer = Observer::new(run, job, Wanted { crowd: true, metrics: u64::MAX })?;
    let view = View::of(&observer);
    let mut incidents = incidents(&observer.entries, observer.records());
    incidents.iter_mut().for_each(|incident| why::complete(incident, &observer.folder));
    let run_toml = observer.folder.run_toml();
    let config = load::from_file(&run_toml, &[]);
    let checkpoints = checkpoints(run, &observer.entries);
    let (pictures, left_out) = pictures::gather(run);
    let (charts, marks) = (charts(observer.records()), marks(&observer.entries, &incidents));
    let suggestion = view.ledger.as_ref().and_then(Suggestion::of);
    let every_steps = config.as_ref().ok().map(|config| config.checkpoint.every_steps);
    let advice = view.ledger.as_ref().zip(suggestion).map(|(ledger, found)| goodput::advice(ledger, found, every_steps));
    let generations = 1..=view.outline.generation;
    let never = launched.is_empty();
    let written = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Ok(Facts {
        name: name(run.path()),
        heading: if never { "never launched".into() } else { heading(&observer, &view, None, false) },
        bad: !never && view.standing.is_bad(),
        job: job.to_string(),
        other_jobs: launched.iter().filter(|other| **other != job).map(|other| other_job(run, *other)).collect(),
        status: if never { Vec::new() } else { facts(&observer, &view) },
        charts,
        marks,
        figures: Figures { evaluation: told(&run.evaluation()), probes: told(&run.probes()), distances: told(&run.distances()) },
        pictures,
        left_out,
        advice,
        remarks: generations.flat_map(|generation| remarks(&observer.entries, generation)).collect(),
        provenance: provenance::provenance(config.as_ref().ok(), &observer, &view, &checkpoints),
        incidents,
        checkpoints,
        settings: config.map_err(|error| error.to_string()).and_then(chosen),
        run_toml: fs::read_to_string(run_toml).ok().filter(|text| !text.is_empty()),
        ledger: view.ledger,
        written,
    })
}

/// The name of the folder, also of `.`.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn chosen(config: Config) -> Result<Settings, String> {
    settings::chosen(&config).map(|chosen| Settings { chosen }).map_err(|error| error.to_string())
}

fn other_job(run: &RunDir, job: Job) -> String {
    match Observer::new(run, job, Wanted { crowd: false, metrics: 0 }) {
        Ok(observer) => line(&observer, &View::of(&observer), false),
        Err(error) => format!("{job}: {error:#}"),
    }
}

/// The figures in a file, if there are any yet.
fn told(path: &Path) -> Told {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| format!("{}: {error}", path.display())),
    }
}

fn charts(records: &[Record]) -> Vec<Chart> {
    let line = |name, figure: fn(&Record) -> Option<f64>| Line { name, points: Curve::of(records, figure).outlined(COLUMNS) };
    let held_out =
        |name, figure: fn(&HeldOut) -> Option<f64>| Line { name, points: Curve::held_out(records, figure).outlined(COLUMNS) };
    let chart = |title, unit, span, lines| Chart { title, unit, span, lines };
    let rates = vec![
        line("backbone", |record| record.backbone_rate),
        line("Slot Attention", |record| record.slot_attention_rate),
        line("UNet", |record| record.unet_rate),
    ];
    let objects = vec![
        held_out("FG-ARI", |figures| figures.fg_ari),
        held_out("mIoU", |figures| figures.miou),
        held_out("mBO", |figures| figures.mbo),
    ];
    let slots = vec![
        held_out("largest slot", |figures| figures.largest_slot),
        held_out("usage entropy", |figures| figures.slot_usage_entropy),
        held_out("similarity", |figures| figures.slot_similarity),
        held_out("attention entropy", |figures| figures.attention_entropy),
        held_out("stability", |figures| figures.slot_stability),
    ];
    let mut charts = vec![
        chart("Loss", "", Span::Tight, vec![line("", |record| record.loss)]),
        chart("Gradient norm", "before clipping", Span::Tight, vec![line("", |record| record.grad_norm)]),
        chart("Throughput", "images per second", Span::FromZero, vec![line("", |record| record.images_per_second)]),
        chart("Learning rates", "", Span::FromZero, rates),
    ];
    let evaluations = [
        chart("Objects found", "held-out images", Span::Tight, objects),
        chart("Held-out loss", "", Span::Tight, vec![held_out("", |figures| figures.loss)]),
        chart(
            "Active slots",
            "of an image, each with 1 % of its pixels",
            Span::FromZero,
            vec![held_out("", |figures| figures.active_slots)],
        ),
        chart("Slots", "collapsed when one is all, or all are alike", Span::FromZero, slots),
    ];
    // Whoever has not asked for evaluations misses none.
    charts.extend(evaluations.into_iter().filter(|chart| chart.lines.iter().any(|line| !line.points.is_empty())));
    charts
}

/// Where generations began and failed.
fn marks(entries: &[Entry], incidents: &[Incident]) -> Vec<Mark> {
    let begun = entries.iter().filter_map(|entry| match entry.event {
        Event::FirstStep { step } => Some(Mark {
            step,
            kind: MarkKind::Generation,
            label: format!("gen {}", entry.generation),
            words: format!("generation {}: first step {step}, {}", entry.generation, entry.time),
        }),
        _ => None,
    });
    let failed = incidents.iter().map(|incident| Mark {
        step: incident.step,
        kind: MarkKind::Failure,
        label: String::new(),
        words: why::headline(incident),
    });
    begun.chain(failed).collect()
}

/// The checkpoints in the stores; if these do not answer, what the journal tells.
fn checkpoints(run: &RunDir, entries: &[Entry]) -> Checkpoints {
    stored(run).map_or_else(
        |reason| {
            let commit = |entry: &Entry| match entry.event {
                Event::CheckpointCommitted { step, seconds } => Some((step, entry.generation, entry.time.clone(), seconds)),
                _ => None,
            };
            Checkpoints::Told(entries.iter().rev().filter_map(commit).collect(), reason)
        },
        Checkpoints::Stored,
    )
}

fn stored(run: &RunDir) -> Result<Vec<Row>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let looked = runtime.block_on(async {
        let look = async { list::found(&Source::open(&run.path().display().to_string()).await?).await };
        tokio::time::timeout(PATIENCE, look).await
    });
    // A file system that hangs keeps a thread of the runtime busy, which nobody waits for.
    runtime.shutdown_background();
    let rows = looked.map_err(|_| format!("the store has not answered within {} s", PATIENCE.as_secs()))?;
    rows.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::testing::{at, failed, started};

    #[test]
    fn charts_hold_what_was_recorded_and_marks_what_happened() {
        let record = |step| Record { step, loss: Some(1.0), unet_rate: Some(1e-4), ..Record::default() };
        let charts = charts(&[record(1), record(2)]);
        let points = |chart: &Chart| chart.lines.iter().map(|line| line.points.len()).collect::<Vec<_>>();
        assert_eq!(charts.iter().map(points).collect::<Vec<_>>(), [vec![2], vec![0], vec![0], vec![0, 0, 2]]);
        let entries =
            [at(0.0, 1, started()), at(1.0, 1, Event::FirstStep { step: 1 }), at(5.0, 1, failed(40)), at(6.0, 2, started())];
        let marks = marks(&entries, &incidents(&entries, &[]));
        let told: Vec<_> = marks.iter().map(|mark| (mark.step, mark.kind, mark.label.as_str())).collect();
        assert_eq!(told, [(1, MarkKind::Generation, "gen 1"), (40, MarkKind::Failure, "")]);
        assert!(marks[1].words.contains("rank 1 on n02: out of memory"), "{}", marks[1].words);
    }
}
