//! `orchestrator checkpoints verify`: every byte of every checkpoint in every place, read and compared with its digest.

use std::process::ExitCode;

use common::checkpoint::Sighting;
use owo_colors::Style;
use serde_json::{Value, json};

use super::reading::Reading;
use super::source::{Place, Source};
use super::table::size;
use crate::commands::output::{colours, print, styled};
use crate::commands::words::{brief, counted};
use crate::exit::Failure;

/// What was found about one checkpoint.
enum Verdict {
    Whole,
    Damaged(String),
    /// A running training has cleared it away while it was read.
    Gone,
}

/// Prints a line per checkpoint; exit code 1 if one of them is damaged.
pub(super) async fn run(run: &str, step: Option<u64>, as_json: bool) -> Result<ExitCode, Failure> {
    let source = Source::open(run).await?;
    let checkpoints = source.committed(step).await?;
    let reading = Reading::of(checkpoints.iter().map(|(_, sighting)| sighting.bytes).sum());
    let (mut damaged, mut bytes, mut rows) = (0, 0, Vec::new());
    for (place, sighting) in &checkpoints {
        let at = if source.places.len() > 1 { format!(" in {}", place.label) } else { String::new() };
        reading.now(format!("step {}{at}", sighting.step));
        let verdict = verify(place, sighting, &reading).await?;
        damaged += usize::from(matches!(verdict, Verdict::Damaged(_)));
        bytes += sighting.bytes;
        if as_json {
            rows.push(row(place, sighting, &verdict));
        } else {
            reading.print(&line(sighting, &at, &verdict))?;
        }
    }
    let seconds = reading.elapsed();
    drop(reading);
    if as_json {
        print(&format!(
            "{:#}\n",
            json!({"checkpoints": rows, "damaged": damaged, "bytes": bytes, "seconds": seconds.as_secs_f64()})
        ))?;
    } else {
        let rate = size((bytes as f64 / seconds.as_secs_f64().max(1e-6)) as u64);
        let found = if damaged == 0 { "all are whole".to_owned() } else { format!("{damaged} damaged") };
        let read = counted(checkpoints.len(), "checkpoint");
        print(&format!("{read}, {} in {} ({rate}/s): {found}\n", size(bytes), brief(seconds)))?;
    }
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn verify(place: &Place, sighting: &Sighting, reading: &Reading) -> Result<Verdict, Failure> {
    let found = match place.inspector.manifest(sighting).await {
        Ok(manifest) => place.inspector.verify(&manifest, |bytes| reading.read(bytes)).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(()) => Ok(Verdict::Whole),
        Err(error) if error.is_damage() && place.inspector.is_there(sighting).await? => Ok(Verdict::Damaged(error.to_string())),
        Err(error) if error.is_damage() => Ok(Verdict::Gone),
        Err(error) => Err(error.into()),
    }
}

fn line(sighting: &Sighting, at: &str, verdict: &Verdict) -> String {
    let about = format!("step {}, generation {}{at}, {}", sighting.step, sighting.generation, size(sighting.bytes));
    let found = |text: &str, style: Style| styled(text, style, colours());
    match verdict {
        Verdict::Whole => format!("{about}: {}", found("whole", Style::new().green())),
        Verdict::Damaged(reason) => format!("{about}: {}: {reason}", found("damaged", Style::new().red())),
        Verdict::Gone => format!("{about}: cleared away meanwhile"),
    }
}

fn row(place: &Place, sighting: &Sighting, verdict: &Verdict) -> Value {
    let (verdict, reason) = match verdict {
        Verdict::Whole => ("whole", None),
        Verdict::Damaged(reason) => ("damaged", Some(reason)),
        Verdict::Gone => ("gone", None),
    };
    json!({"step": sighting.step, "generation": sighting.generation, "place": place.label, "url": place.inspector.url(),
        "folder": sighting.folder, "bytes": sighting.bytes, "verdict": verdict, "reason": reason})
}
