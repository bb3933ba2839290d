//! `orchestrator why`: the first failure of a run in one line, who followed, and what was done about it.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use common::control::FailureKind;
use common::job::Job;
use common::run_dir::RunDir;
use owo_colors::Style;
use serde_json::json;

use super::logs::tail;
use super::output::{colours, print, styled};
use super::words::{brief, brief_seconds, counted, names, ranges};
use crate::exit::Failure;
use crate::observe::{Observer, Standing, View, Wanted, chosen_job};
use crate::story::{Aftermath, Incident, Remark, Restart, incidents, remarks};

/// Lines of the log that are shown.
const LOG_LINES: usize = 8;
/// Remarks that are shown.
const REMARKS: usize = 8;
/// Failures before the one that is explained, in the table.
const EARLIER: usize = 12;

/// Explains the newest failure, or that of one generation.
pub(crate) fn run(run: PathBuf, job: Option<Job>, generation: Option<u64>, json: bool) -> Result<ExitCode, Failure> {
    let run = RunDir::new(run);
    let job = chosen_job(&run, job)?;
    let observer = Observer::new(&run, job, Wanted { crowd: true, metrics: u64::MAX })?;
    let view = View::of(&observer);
    let mut incidents = incidents(&observer.entries, observer.records());
    incidents.iter_mut().for_each(|incident| complete(incident, &observer.folder));
    if let Some(generation) = generation {
        let newest = observer.entries.iter().map(|entry| entry.generation).max().unwrap_or(0);
        if generation == 0 || generation > newest {
            let folder = observer.folder.path().display();
            return Err(Failure::bad_input(format!("{folder}: there is no generation {generation}; the newest is {newest}")));
        }
    }
    let chosen = match generation {
        Some(generation) => incidents.iter().rposition(|incident| incident.generation == generation),
        None => incidents.len().checked_sub(1),
    };
    let stands = standing(&view, &observer);
    let about = chosen.map(|index| incidents[index].generation).or(generation).unwrap_or(view.outline.generation);
    let remarks = remarks(&observer.entries, about);
    if json {
        let failure = chosen.map(|index| &incidents[index]);
        let text = json!({"job": job, "standing": view.standing, "text": stands, "failure": failure, "failures": incidents,
            "remarks": remarks});
        print(&format!("{text:#}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = match (chosen, generation) {
        (Some(index), _) => explain(&incidents[index], colours()),
        (None, Some(generation)) => format!("generation {generation} did not fail\n"),
        (None, None) => "nothing has failed\n".into(),
    };
    text += &worth_knowing(&remarks);
    if view.standing == Standing::Vanished && generation.is_none() {
        // Nobody was left to write that down, and it is the newest thing that went wrong.
        text = format!("{}\n\n{text}", styled(&format!("now: {stands}"), Style::new().red().bold(), colours()));
    } else {
        let _ = writeln!(text, "\nnow: {stands}");
    }
    let others: Vec<&Incident> =
        incidents.iter().enumerate().filter(|(index, _)| Some(*index) != chosen).map(|(_, other)| other).collect();
    text += &table(&others);
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Journals from before failures had logs: the file of that rank, or the launcher's, may still be there.
pub(super) fn complete(incident: &mut Incident, folder: &RunDir) {
    let own = incident.rank.map(|rank| folder.log_file(incident.generation, rank));
    for path in own.into_iter().chain([folder.launcher_log(incident.generation)]) {
        if incident.log.is_empty() {
            incident.log = tail(&path, LOG_LINES).unwrap_or_default();
        }
    }
}

/// `generation 2, step 612: rank 13 on n04: out of memory: killed by signal 9 (SIGKILL)`.
pub(super) fn headline(incident: &Incident) -> String {
    let mut text = format!("generation {}, step {}: ", incident.generation, incident.step);
    match (incident.rank, &incident.host) {
        (Some(rank), Some(host)) => text += &format!("rank {rank} on {host}: "),
        (Some(rank), None) => text += &format!("rank {rank}: "),
        (None, Some(host)) => text += &format!("host {host}: "),
        (None, None) => {}
    }
    // "fault" is any other kind, and says nothing that the reason does not.
    if let Some(kind) = incident.kind.filter(|kind| *kind != FailureKind::Fault) {
        text += &format!("{}: ", kind.name());
    }
    text + &incident.reason
}

fn explain(incident: &Incident, colours: bool) -> String {
    let mut text = styled(&headline(incident), Style::new().red().bold(), colours) + "\n";
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let noticed = incident
        .noticed_within
        .map_or_else(String::new, |seconds| format!(", within {} of the last sign that it got on", brief_seconds(seconds)));
    row("noticed", format!("{}{noticed}", incident.time));
    if !incident.followed.is_empty() {
        let followed = &incident.followed;
        row("followed", format!("{} because of it: {}", counted(followed.len(), "other rank"), ranges(followed.iter().copied())));
    }
    if !incident.hosts_lost.is_empty() {
        row("lost", names(&incident.hosts_lost, 8));
    }
    if let Some(file) = &incident.hang_report {
        row("report", file.clone());
    }
    row("then", then(&incident.aftermath));
    if !incident.log.is_empty() {
        let last = &incident.log[incident.log.len().saturating_sub(LOG_LINES)..];
        let _ = writeln!(text, "\nits last lines:");
        last.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    text
}

/// What was done about it.
pub(super) fn then(aftermath: &Aftermath) -> String {
    match aftermath {
        Aftermath::Pending => "nothing yet".into(),
        Aftermath::Restarted(restart) => restarted(restart),
        Aftermath::GaveUp { exit_code, reason } if reason.is_empty() => format!("gave up (exit code {exit_code})"),
        Aftermath::GaveUp { exit_code, reason } => format!("gave up (exit code {exit_code}): {reason}"),
        Aftermath::Stopped { exit_code } => format!("ended, as it had been asked to stop (exit code {exit_code})"),
        Aftermath::Requeued { slurm_job } => format!("back in the queue as Slurm job {slurm_job}"),
    }
}

fn restarted(restart: &Restart) -> String {
    let who = if restart.later_launch { "a later launch went on" } else { "restarted" };
    let mut text = format!("{who} as generation {}", restart.generation);
    match (restart.step, restart.recovery, restart.redone) {
        (Some(step), Some(recovery), redone) => {
            let redone = redone.map_or_else(String::new, |redone| {
                format!(", {} to do again", counted(usize::try_from(redone).unwrap_or(0), "step"))
            });
            text += &format!(" from step {step}, its first step {} after the failure{redone}", brief_seconds(recovery));
        }
        _ if restart.failed_too => text += ", which failed before its first step",
        _ if restart.ended => {}
        _ => text += ", which has not made a step yet",
    }
    text
}

/// How the run stands, in one line.
fn standing(view: &View, observer: &Observer) -> String {
    let mut text = view.standing.name().to_owned();
    match view.standing {
        Standing::Queued => text += &view.waits_for().map_or_else(String::new, |job| format!(" as Slurm job {job}")),
        Standing::Vanished => {
            let host = &view.outline.coordinator_host;
            let host = if host.is_empty() { String::new() } else { format!(" on {host}") };
            let when = view.sign.map_or_else(String::new, |sign| format!(" {} ago", brief(view.ago(sign))));
            text += &format!(": the orchestrator{host} fell silent{when} without saying why: it was killed, or its host was lost");
        }
        _ => {}
    }
    if view.outline.generation > 0 {
        text += &format!(", generation {}", view.outline.generation);
    }
    if let Some(progress) = observer.status.as_ref().and_then(|status| status.progress.as_ref()) {
        text += &format!(", {}/{} {}", progress.done, progress.total, progress.unit);
    }
    if let Some((step, when)) = view.checkpoint {
        text += &format!(", newest checkpoint at step {step} ({} ago)", brief(view.ago(when)));
    }
    text
}

/// The newest remarks about the generation, oldest first.
fn worth_knowing(remarks: &[Remark]) -> String {
    if remarks.is_empty() {
        return String::new();
    }
    let mut text = "\nworth knowing about that generation:\n".to_owned();
    for Remark { time, text: remark, .. } in &remarks[remarks.len().saturating_sub(REMARKS)..] {
        let _ = writeln!(text, "  {}  {remark}", time.get(..19).unwrap_or(time));
    }
    if remarks.len() > REMARKS {
        let _ = writeln!(text, "  and {} before", remarks.len() - REMARKS);
    }
    text
}

/// The other failures, newest first.
fn table(others: &[&Incident]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{}:\n", counted(others.len(), "other failure"));
    for incident in others.iter().rev().take(EARLIER) {
        let when = incident.time.get(..19).unwrap_or(&incident.time);
        let _ = writeln!(text, "  {when}  {}", headline(incident));
    }
    if others.len() > EARLIER {
        let _ = writeln!(text, "  and {} before", others.len() - EARLIER);
    }
    text
}
