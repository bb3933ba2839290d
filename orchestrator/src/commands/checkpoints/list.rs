//! `orchestrator checkpoints list`: what lies where, newest first. Whether it is whole is for `verify` to say, which reads every byte.

use std::process::ExitCode;
use std::time::SystemTime;

use common::checkpoint::Sighting;
use common::config::BestBy;
use owo_colors::Style;
use serde::Serialize;
use serde_json::json;

use super::source::Source;
use super::table::{Table, plain, size};
use crate::commands::output::{colours, print};
use crate::commands::words::{brief, counted};
use crate::coordinator::significant;
use crate::exit::Failure;
use crate::story::{since_1970, time};

/// One attempt, wherever it lies.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Row {
    /// Optimizer steps that it holds.
    pub(in crate::commands) step: u64,
    /// The generation that saved it.
    pub(in crate::commands) generation: u64,
    /// Number of workers that saved it.
    pub(in crate::commands) world: Option<usize>,
    /// Bytes of all its objects.
    pub(in crate::commands) bytes: u64,
    /// What `checkpoint.keep_best` goes by.
    pub(in crate::commands) figure: Option<f64>,
    /// What figure that is.
    pub(in crate::commands) figure_of: Option<BestBy>,
    /// When, by the journal.
    pub(in crate::commands) committed_at: Option<String>,
    /// Whether it is complete.
    pub(in crate::commands) committed: bool,
    /// Fingerprint of the data set that it was trained on.
    #[serde(skip)]
    pub(in crate::commands) data_fingerprint: Option<String>,
    /// The stores that hold it: `url`, `also 1`.
    places: Vec<String>,
    /// Its folder in each.
    folder: String,
    /// Why its manifest cannot be believed.
    pub(in crate::commands) damage: Option<String>,
}

/// Prints those that were committed, and with `all` also what interrupted saves have left.
pub(super) async fn run(run: &str, all: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let source = Source::open(run).await?;
    let mut rows = found(&source).await?;
    let partial = rows.iter().filter(|row| !row.committed).count();
    if !all {
        rows.retain(|row| row.committed);
    }
    if as_json {
        let places: Vec<_> =
            source.places.iter().map(|place| json!({"place": place.label, "url": place.inspector.url()})).collect();
        print(&format!("{:#}\n", json!({"places": places, "checkpoints": rows, "partial_attempts": partial})))?;
    } else {
        print(&text(&source, &rows, if all { 0 } else { partial }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All attempts of all places, newest first.
pub(in crate::commands) async fn found(source: &Source) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for place in &source.places {
        for sighting in place.inspector.sightings().await? {
            match rows.iter_mut().find(|row| row.folder == sighting.folder) {
                Some(row) => {
                    row.places.push(place.label.clone());
                    row.committed |= sighting.committed;
                }
                None => rows.push(row(source, place, sighting).await?),
            }
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.step, row.generation)));
    Ok(rows)
}

async fn row(source: &Source, place: &super::source::Place, sighting: Sighting) -> Result<Row, Failure> {
    let manifest = match place.inspector.manifest(&sighting).await {
        _ if !sighting.committed => None,
        Ok(manifest) => Some(Ok(manifest)),
        Err(error) if error.is_damage() => Some(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let (manifest, damage) = match manifest {
        Some(Ok(manifest)) => (Some(manifest), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    Ok(Row {
        step: sighting.step,
        generation: sighting.generation,
        world: manifest.as_ref().map(|manifest| manifest.world),
        bytes: sighting.bytes,
        figure: manifest.as_ref().and_then(|manifest| manifest.figure),
        figure_of: manifest.as_ref().map(|manifest| manifest.figure_of),
        committed_at: source.committed_at(&sighting).filter(|_| sighting.committed).map(str::to_owned),
        committed: sighting.committed,
        data_fingerprint: manifest.map(|manifest| manifest.data_fingerprint),
        places: vec![place.label.clone()],
        folder: sighting.folder,
        damage,
    })
}

fn text(source: &Source, rows: &[Row], hidden: usize) -> String {
    let by = rows.iter().find_map(|row| row.figure_of).unwrap_or_default();
    let by = if rows.iter().all(|row| row.figure_of.is_none_or(|of| of == by)) { by.name() } else { "figure" };
    let mut table = Table::new(["step", "generation", "workers", "size", by, "age", "<state", "<where", "<folder"]);
    let now = since_1970(SystemTime::now());
    let several = source.places.len() > 1;
    for row in rows {
        let (state, style) = match (&row.damage, row.committed) {
            (Some(_), _) => ("damaged", Style::new().red()),
            (None, true) => ("committed", Style::new().green()),
            (None, false) => ("partial", Style::new().yellow()),
        };
        let age = row.committed_at.as_deref().and_then(time).map(|when| brief(now.saturating_sub(when)));
        table.push([
            plain(row.step),
            plain(row.generation),
            plain(row.world.map_or("-".into(), |world| world.to_string())),
            plain(size(row.bytes)),
            plain(row.figure.map_or_else(String::new, significant)),
            plain(age.unwrap_or_default()),
            (state.into(), Some(style)),
            plain(if several { row.places.join(", ") } else { String::new() }),
            plain(&row.folder),
        ]);
    }
    let mut text = if rows.is_empty() { String::new() } else { table.text(colours()) };
    for place in &source.places {
        let label = if several { format!("{}: ", place.label) } else { String::new() };
        text += &if rows.is_empty() {
            format!("no checkpoints in {}\n", place.inspector.url())
        } else {
            format!("{label}{}\n", place.inspector.url())
        };
    }
    for row in rows {
        if let Some(damage) = &row.damage {
            text += &format!("step {}: {damage}\n", row.step);
        }
    }
    if hidden > 0 {
        text += &format!("and {} of interrupted saves, or of one that is under way (--all)\n", counted(hidden, "remainder"));
    }
    text
}
