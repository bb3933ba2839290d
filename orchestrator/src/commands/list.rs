//! `orchestrator list`: all runs of a folder, one line each.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::job::Job;
use common::run_dir::RunDir;
use owo_colors::Style;
use serde::Serialize;
use serde_json::json;

use super::output::{colours, print, styled};
use super::words::brief_seconds;
use crate::coordinator::significant;
use crate::exit::{Failure, OrBadInput};
use crate::observe::{Observer, Standing, View, Wanted, jobs};

/// One run, as the job of it that was active last.
#[derive(Debug, Default, Serialize)]
struct Row {
    name: String,
    job: Option<Job>,
    standing: Option<Standing>,
    step: Option<u64>,
    total: Option<u64>,
    rate: Option<f64>,
    loss: Option<f64>,
    checkpoint: Option<u64>,
    slurm_job: Option<String>,
    silent_seconds: Option<f64>,
    /// Why nothing more is known.
    error: Option<String>,
}

/// Prints them, the most recently active first.
pub(crate) fn run(root: &Path, json: bool) -> Result<ExitCode, Failure> {
    let entries = fs::read_dir(root)
        .map_err(|error| anyhow::anyhow!("{}: {error}; which folder are the runs in?", root.display()))
        .or_bad_input()?;
    let folders = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut rows: Vec<Row> = folders.filter_map(row).collect();
    rows.sort_by(|a, b| {
        let silence = |row: &Row| row.silent_seconds.unwrap_or(f64::INFINITY);
        silence(a).total_cmp(&silence(b)).then_with(|| a.name.cmp(&b.name))
    });
    if json {
        print(&format!("{:#}\n", json!(rows)))?;
    } else if rows.is_empty() {
        print(&format!("no runs in {}\n", root.display()))?;
    } else {
        print(&table(&rows, colours()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// None for a folder that is no run. A run that cannot be read is no reason not to list the others.
fn row(path: PathBuf) -> Option<Row> {
    let folder = RunDir::new(&path);
    let name = path.file_name()?.to_string_lossy().into_owned();
    let Some(job) = jobs(&folder).first().copied() else {
        return folder.run_toml().is_file().then(|| Row { name, error: Some("never launched".into()), ..Row::default() });
    };
    match Observer::new(&folder, job, Wanted { crowd: false, metrics: 0 }) {
        Ok(observer) => Some(seen(name, &observer)),
        Err(error) => Some(Row { name, job: Some(job), error: Some(format!("{error:#}")), ..Row::default() }),
    }
}

fn seen(name: String, observer: &Observer) -> Row {
    let view = View::of(observer);
    let progress = observer.status.as_ref().and_then(|status| status.progress.as_ref());
    Row {
        name,
        job: Some(observer.job),
        standing: Some(view.standing),
        step: progress.map(|progress| progress.done),
        total: progress.map(|progress| progress.total),
        rate: progress.map(|progress| progress.rate).filter(|_| view.standing.is_alive()),
        loss: progress.and_then(|progress| progress.fields.get("loss").copied()),
        checkpoint: view.checkpoint.map(|(step, _)| step),
        slurm_job: view.outline.pending.clone().or_else(|| view.outline.slurm_job.clone()),
        silent_seconds: view.sign.map(|sign| view.ago(sign).as_secs_f64()),
        error: None,
    }
}

fn table(rows: &[Row], colours: bool) -> String {
    let header = ["run", "job", "state", "step", "rate", "loss", "checkpoint", "slurm", "last sign of life"].map(str::to_owned);
    let cells: Vec<[String; 9]> = [header].into_iter().chain(rows.iter().map(cells)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for (index, row) in cells.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Names lean to the left, figures to the right.
            let cell = if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            let standing = index.checked_sub(1).and_then(|index| rows[index].standing);
            text += &if column == 2 { painted(&cell, standing, colours) } else { cell };
            text += if column < 8 { "  " } else { "" };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for row in rows {
        if let Some(error) = &row.error {
            let _ = writeln!(text, "{}: {error}", row.name);
        }
    }
    text
}

fn painted(cell: &str, standing: Option<Standing>, colours: bool) -> String {
    let style = match standing {
        Some(standing) if standing.is_bad() => Style::new().red(),
        Some(standing) if standing.is_alive() => Style::new().green(),
        Some(Standing::Queued) => Style::new().yellow(),
        _ => return cell.to_owned(),
    };
    styled(cell, style, colours)
}

fn cells(row: &Row) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        row.name.clone(),
        or_dash(row.job.map(|job| job.name().to_owned())),
        or_dash(row.standing.map(|standing| standing.name().to_owned())),
        or_dash(row.step.zip(row.total).map(|(step, total)| format!("{step}/{total}"))),
        or_dash(row.rate.map(|rate| format!("{}/s", significant(rate)))),
        or_dash(row.loss.map(significant)),
        or_dash(row.checkpoint.map(|step| step.to_string())),
        or_dash(row.slurm_job.clone()),
        or_dash(row.silent_seconds.map(|seconds| format!("{} ago", brief_seconds(seconds)))),
    ]
}
