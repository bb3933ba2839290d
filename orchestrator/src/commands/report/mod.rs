//! `orchestrator report`: a run as one HTML page that needs nothing else, neither the run's folder nor a network.
//!
//! The page is a pure function ([`page`]) of plain data ([`facts`]), which is gathered from the run's files ([`gather`]) as every other view
//! of a run is.

mod facts;
mod gather;
mod page;
mod pictures;
mod provenance;
mod settings;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use common::run_dir::{RunDir, replace_file};
use serde_json::json;

use self::facts::Facts;
use super::output::print;
use super::words::counted;
use crate::exit::Failure;

/// Writes the page and says where it is.
pub(crate) fn run(run: &Path, to: Option<PathBuf>, json: bool) -> Result<ExitCode, Failure> {
    let run = RunDir::new(run);
    let facts = gather::gather(&run)?;
    let path = to.unwrap_or_else(|| run.report());
    let page = page::page(&facts);
    replace_file(&path, page.as_bytes(), 0o644).with_context(|| format!("cannot write {}", path.display()))?;
    if json {
        print(&format!("{:#}\n", inventory(&facts, &path, page.len())))?;
    } else {
        print(&format!("{}: {}\n", path.display(), sentence(&facts)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in the page, for scripts.
fn inventory(facts: &Facts, path: &Path, bytes: usize) -> serde_json::Value {
    let points = |chart: &facts::Chart| chart.lines.iter().map(|line| line.points.len()).sum::<usize>();
    let charts: serde_json::Map<_, _> = facts.charts.iter().map(|chart| (chart.title.to_owned(), json!(points(chart)))).collect();
    let pictures: Vec<&str> = facts.pictures.iter().map(|picture| picture.name.as_str()).collect();
    let left_out: Vec<_> = facts.left_out.iter().map(|(name, reason)| json!({"name": name, "reason": reason})).collect();
    json!({
        "path": path, "bytes": bytes, "job": facts.job, "heading": facts.heading, "points": charts,
        "figures": matches!(facts.figures.evaluation, Ok(Some(_))), "pictures": pictures, "pictures_left_out": left_out,
        "failures": facts.incidents.len(), "checkpoints": facts.checkpoints.count(), "goodput": facts.ledger.is_some(),
        "configuration": facts.settings.is_ok(),
    })
}

/// What is in the page, for people.
fn sentence(facts: &Facts) -> String {
    let curves = facts.charts.iter().flat_map(|chart| &chart.lines).filter(|line| !line.points.is_empty()).count();
    let mut words = vec![facts.heading.clone(), counted(curves, "curve"), counted(facts.pictures.len(), "picture")];
    if !facts.left_out.is_empty() {
        words.push(format!("{} left out", counted(facts.left_out.len(), "picture")));
    }
    words.push(counted(facts.incidents.len(), "failure"));
    words.join(", ")
}
