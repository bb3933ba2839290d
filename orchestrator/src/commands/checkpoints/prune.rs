//! `orchestrator checkpoints prune`: what the retention of the configuration, or another one, would clear away; and doing it.

use std::process::ExitCode;

use clap::Args;
use common::checkpoint::{Retention, Sighting};
use common::config::CheckpointConfig;
use serde_json::json;

use super::reading::Reading;
use super::source::{Place, Source};
use super::table::{Table, plain, size};
use crate::commands::output::{colours, print};
use crate::commands::words::counted;
use crate::exit::Failure;

/// What stays, where that shall differ from `[checkpoint]` of the run.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Keep {
    /// The newest N good ones stay, 2 or more [default: checkpoint.keep_last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    keep_last: Option<u64>,
    /// Those of every so many steps stay; 0 for none [default: checkpoint.keep_every]
    #[arg(long, value_name = "STEPS")]
    keep_every: Option<u64>,
    /// The N best by checkpoint.best_by stay; 0 for none [default: checkpoint.keep_best]
    #[arg(long, value_name = "N")]
    keep_best: Option<u64>,
}

impl Keep {
    fn retention(self, configured: &CheckpointConfig) -> Retention {
        let number = |own: Option<u64>, configured: usize| own.map_or(configured, |own| usize::try_from(own).unwrap_or(usize::MAX));
        Retention {
            last: number(self.keep_last, configured.keep_last).max(2),
            every: self.keep_every.unwrap_or(configured.keep_every),
            best: number(self.keep_best, configured.keep_best),
            by: configured.best_by,
        }
    }
}

/// Says what would go, and lets it go if `yes`.
pub(super) async fn run(run: &str, keep: Keep, yes: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let source = Source::open(run).await?;
    let retention = keep.retention(source.config.as_ref().map_or(&CheckpointConfig::default(), |config| &config.checkpoint));
    let (goes, stays) = plan(&source, retention).await?;
    if yes {
        for (place, sighting) in &goes {
            place.inspector.remove(sighting).await?;
        }
    }
    let row = |(place, sighting): &(&Place, Sighting)| {
        json!({"step": sighting.step, "generation": sighting.generation, "committed": sighting.committed, "bytes": sighting.bytes,
            "place": place.label, "url": place.inspector.url(), "folder": sighting.folder})
    };
    if as_json {
        let Retention { last, every, best, by } = retention;
        let rows = |all: &[(&Place, Sighting)]| all.iter().map(row).collect::<Vec<_>>();
        print(&format!(
            "{:#}\n",
            json!({"retention": {"keep_last": last, "keep_every": every, "keep_best": best, "best_by": by}, "removed": yes,
                "goes": rows(&goes), "stays": rows(&stays)})
        ))?;
    } else {
        print(&text(&source, &goes, &stays, yes))?;
    }
    Ok(ExitCode::SUCCESS)
}

type Placed<'a> = Vec<(&'a Place, Sighting)>;

/// What goes and what stays, in all places.
async fn plan(source: &Source, retention: Retention) -> Result<(Placed<'_>, Placed<'_>), Failure> {
    let (mut goes, mut stays) = (Vec::new(), Vec::new());
    for place in &source.places {
        let sightings = place.inspector.sightings().await?;
        let newest = sightings.iter().filter(|sighting| sighting.committed).take(retention.last);
        let reading = Reading::of(newest.map(|sighting| sighting.bytes).sum());
        reading.now(format!("verifying the newest in {}", place.label));
        let expendable = place.inspector.expendable(retention, |bytes| reading.read(bytes)).await?;
        stays.extend(sightings.into_iter().filter(|sighting| !expendable.contains(sighting)).map(|sighting| (place, sighting)));
        goes.extend(expendable.into_iter().map(|sighting| (place, sighting)));
    }
    Ok((goes, stays))
}

fn text(source: &Source, goes: &[(&Place, Sighting)], stays: &[(&Place, Sighting)], yes: bool) -> String {
    if goes.is_empty() {
        return format!("nothing to clear away in {}\n", source.urls());
    }
    let mut table = Table::new(["step", "generation", "size", "<state", "<where", "<folder"]);
    let several = source.places.len() > 1;
    for (place, sighting) in goes {
        table.push([
            plain(sighting.step),
            plain(sighting.generation),
            plain(size(sighting.bytes)),
            plain(if sighting.committed { "committed" } else { "partial" }),
            plain(if several { place.label.as_str() } else { "" }),
            plain(&sighting.folder),
        ]);
    }
    let bytes = |all: &[(&Place, Sighting)]| size(all.iter().map(|(_, sighting)| sighting.bytes).sum());
    let verb = if yes { "removed" } else { "would be removed; --yes does it" };
    let (gone, left) = (counted(goes.len(), "attempt"), counted(stays.len(), "attempt"));
    format!("{}{gone}, {}: {verb}\n{left}, {}: stay\n", table.text(colours()), bytes(goes), bytes(stays))
}
