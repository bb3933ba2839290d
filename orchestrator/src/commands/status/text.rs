//! A job on one screen.

use std::time::Duration;

use common::control::Evaluation;
use owo_colors::Style;

use super::workers;
use crate::commands::goodput::sentence;
use crate::commands::output::styled;
use crate::commands::why;
use crate::commands::words::{brief, brief_seconds, counted, names, percent};
use crate::coordinator::{Status, describe, significant};
use crate::observe::{Forecast, Observer, Queue, Standing, View};
use crate::supervisor::{Findings, Setbacks, Unsaved};

/// Of the workers whose devices stand out, so many are named.
const OUTLIERS: usize = 4;

/// Everything about a job.
pub(super) fn screen(observer: &Observer, view: &View, queue: Option<&Queue>, colours: bool) -> String {
    let mut text = format!("{}: {}\n", observer.job, heading(observer, view, queue, colours));
    let mut rows = facts(observer, view);
    if let Some(status) = observer.status.as_ref().filter(|_| view.standing.is_alive()) {
        rows.extend(workers::rows(status));
    }
    for (name, fact) in rows {
        text += &format!("  {name:<13} {fact}\n");
    }
    text
}

/// What is known about a job, each with its name.
pub(in crate::commands) fn facts(observer: &Observer, view: &View) -> Vec<(&'static str, String)> {
    let status = observer.status.as_ref();
    let mut facts: Vec<_> = slurm(view, status).map(|text| ("slurm", text)).into_iter().collect();
    facts.extend(status.into_iter().flat_map(|status| progress(status, view)));
    facts.extend(view.outline.evaluation.as_ref().into_iter().flat_map(evaluation));
    facts.extend(view.checkpoint.map(|(step, when)| {
        let took = status.and_then(|status| status.checkpoint_seconds);
        let took = took.map_or_else(String::new, |took| format!(", took up to {}", brief_seconds(took)));
        ("checkpoint", format!("step {step}, {} ago{took}", brief(view.ago(when))))
    }));
    facts.extend(status.and_then(|status| status.unsaved.as_ref()).map(|unsaved| {
        let Unsaved { step, cause } = unsaved;
        ("not saved", format!("the checkpoint of step {step}, and training goes on: {cause}"))
    }));
    facts.extend(status.and_then(|status| status.checkup.as_ref()).into_iter().flat_map(checkup));
    let goodput = view.ledger.as_ref().map(sentence);
    facts.push(("goodput", goodput.unwrap_or_else(|| "ask `orchestrator goodput`: there are many records".into())));
    let lost = status.map(|status| names(&status.lost_hosts, 4)).filter(|lost| !lost.is_empty());
    facts.extend(lost.map(|lost| ("lost hosts", lost)));
    facts.extend(status.and_then(|status| setbacks(status.setbacks)).map(|text| ("setbacks", text)));
    facts.extend(view.failure.as_ref().map(|failure| ("last failure", why::headline(failure))));
    facts
}

/// A job in one line.
pub(in crate::commands) fn line(observer: &Observer, view: &View, colours: bool) -> String {
    let progress = observer.status.as_ref().and_then(|status| status.progress.as_ref());
    let progress =
        progress.map_or_else(String::new, |progress| format!(", {}/{} {}", progress.done, progress.total, progress.unit));
    format!("{}: {}{progress}\n", observer.job, heading(observer, view, None, colours))
}

/// `running, generation 3, 1.0 s ago`.
pub(in crate::commands) fn heading(observer: &Observer, view: &View, queue: Option<&Queue>, colours: bool) -> String {
    let style = match view.standing {
        standing if standing.is_bad() => Style::new().red().bold(),
        Standing::Queued | Standing::Stopped => Style::new().yellow(),
        _ => Style::new().green(),
    };
    let mut text = styled(view.standing.name(), style, colours);
    match (view.waits_for(), queue) {
        (Some(job), Some(queue)) => text += &waiting(view.standing, job, queue),
        (Some(job), None) => text += &format!(" as Slurm job {job}"),
        (None, _) if view.standing == Standing::Vanished => text += " (its orchestrator was killed, or its host was lost)",
        (None, _) => {}
    }
    let exit_code = observer.status.as_ref().and_then(|status| status.exit_code).filter(|_| view.standing != Standing::Queued);
    if let Some(code) = exit_code.filter(|_| !view.standing.is_alive()) {
        text += &format!(", exit code {code}");
    }
    if view.outline.generation > 0 {
        text += &format!(", generation {}", view.outline.generation);
    }
    match view.sign {
        Some(sign) if view.ago(sign) >= Duration::from_secs(2) => {
            text + &format!(", last sign of life {} ago", brief(view.ago(sign)))
        }
        _ => text,
    }
}

fn waiting(standing: Standing, job: &str, queue: &Queue) -> String {
    let lost = if standing == Standing::Vanished { " (its orchestrator was killed, or its host was lost)," } else { "" };
    match queue {
        Queue::Known { state, reason, start } => {
            let start = start.as_ref().map_or_else(String::new, |start| format!(", expected to start at {start}"));
            let reason = if reason == "None" { String::new() } else { format!(": {reason}") };
            format!("{lost} as Slurm job {job}: {}{reason}{start}", state.to_lowercase())
        }
        Queue::Gone => format!("{lost} as Slurm job {job}, which Slurm does not know any more: cancelled?"),
        Queue::Silent => format!("{lost} as Slurm job {job}"),
    }
}

/// The job and the hosts, while there are any.
fn slurm(view: &View, status: Option<&Status>) -> Option<String> {
    if !view.standing.is_alive() {
        return None;
    }
    let hosts = match &view.outline.hosts[..] {
        [] => String::new(),
        hosts => format!(", {}: {}", counted(hosts.len(), "host"), names(hosts, 4)),
    };
    let job = view.outline.slurm_job.as_ref()?;
    let left =
        status.and_then(|status| crate::story::time(status.deadline.as_deref()?)).map(|deadline| deadline.saturating_sub(view.now));
    let left = left.map_or_else(String::new, |left| format!(", {} left", brief(left)));
    Some(format!("job {job}{left}{hosts}"))
}

/// Progress, the deadline, and where the time of the steps goes.
fn progress(status: &Status, view: &View) -> Vec<(&'static str, String)> {
    let Some(progress) = &status.progress else { return Vec::new() };
    let mut shown = progress.clone();
    let field = |name: &str| progress.fields.get(name).copied();
    shown.fields.clear();
    if !view.standing.is_alive() {
        shown.rate = 0.0;
    }
    let share = if progress.total > 0 { progress.done as f64 / progress.total as f64 } else { 0.0 };
    let mut rows = vec![("progress", format!("{} ({})", describe(&shown), percent(share)))];
    rows.extend(view.forecast.and_then(deadline).map(|text| ("deadline", text)));
    let mut figures: Vec<String> = field("loss").map(significant).into_iter().collect();
    figures.extend(field("images_per_second").map(|rate| format!("{} images/s", significant(rate))));
    figures.extend(field("data_stall").map(|stall| {
        let at_hand =
            field("cache_hit_rate").map_or_else(String::new, |rate| format!(" ({} of its blocks at hand)", percent(rate)));
        format!("{} of the time waiting for data{at_hand}", percent(stall))
    }));
    let measured = status.utilisation.filter(|_| view.standing.is_alive()).zip(status.checkup.as_ref());
    figures.extend(
        measured
            .map(|(share, checkup)| format!("MFU {} of {} TFLOP/s measured", percent(share), significant(checkup.total_tflops))),
    );
    if !figures.is_empty() {
        rows.push((if field("loss").is_some() { "loss" } else { "speed" }, figures.join(", ")));
    }
    rows
}

/// How the model did on held-out images, and what makes its slots look collapsed.
fn evaluation(evaluation: &Evaluation) -> Vec<(&'static str, String)> {
    let held_out = ("held out", format!("step {}: {evaluation}", evaluation.step));
    let collapsed = evaluation.collapse.as_ref().map(|why| ("collapsed", format!("the slots look collapsed: {why}")));
    std::iter::once(held_out).chain(collapsed).collect()
}

/// How often gradients were no numbers, if they ever were.
fn setbacks(Setbacks { skipped, back }: Setbacks) -> Option<String> {
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let skipped = (skipped > 0).then(|| format!("{} skipped", counted(count(skipped), "step")));
    let back = (back > 0).then(|| format!("went back to a checkpoint {}", counted(count(back), "time")));
    let words: Vec<String> = skipped.into_iter().chain(back).collect();
    (!words.is_empty()).then(|| format!("{}: gradients were no numbers", words.join(", ")))
}

/// What the workers' devices can do, and those that stand out.
fn checkup(findings: &Findings) -> Vec<(&'static str, String)> {
    let mut rows = vec![("devices", findings.sentence())];
    rows.extend(findings.outliers.iter().take(OUTLIERS).map(|outlier| ("", outlier.sentence())));
    let more = findings.outliers.len().saturating_sub(OUTLIERS) + findings.more_outliers;
    rows.extend((more > 0).then(|| ("", format!("and {more} more that stand out"))));
    rows
}

/// Whether the allocation lasts.
pub(super) fn deadline(forecast: Forecast) -> Option<String> {
    let until = forecast.deadline_seconds?;
    Some(match forecast.allocations {
        Some(0) => format!("done {} before the allocation ends", brief_seconds(until - forecast.eta_seconds)),
        Some(count) => format!(
            "the allocation ends {} too early: needs about {}",
            brief_seconds(forecast.eta_seconds - until),
            counted(usize::try_from(count).unwrap_or(usize::MAX), "more allocation")
        ),
        None => format!("the allocation ends {} too early", brief_seconds(forecast.eta_seconds - until)),
    })
}
