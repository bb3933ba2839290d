//! `orchestrator shards verify`: every byte of a data set, read and compared with its digest.

use std::process::ExitCode;

use common::shards::{DamagedBlock, ShardFile, Verdict, verify_file};
use serde_json::json;

use super::open;
use crate::commands::checkpoints::reading::Reading;
use crate::commands::checkpoints::table::size;
use crate::commands::output::print;
use crate::commands::words::{brief, counted};
use crate::exit::Failure;

/// Blocks that are named of one file.
const SHOWN: usize = 4;

/// Prints a line per file that is not whole; exit code 1 if there is one.
pub(super) async fn run(url: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let splits = open(url).await?;
    let files = splits.iter().flat_map(|split| &split.manifest.shards).flat_map(|shard| &shard.files);
    let (count, bytes) = files.fold((0_usize, 0), |(count, bytes), file| (count + 1, bytes + file.bytes));
    let reading = Reading::of(bytes);
    let mut bad = Vec::new();
    for split in &splits {
        for shard in &split.manifest.shards {
            for (index, file) in shard.files.iter().enumerate() {
                reading.now(file.name.clone());
                let verdict = verify_file(&split.store, &split.manifest, (shard, index), |bytes| reading.read(bytes)).await;
                let verdict = verdict.map_err(anyhow::Error::from)?;
                if verdict == Verdict::Whole {
                    continue;
                }
                let object = split.store.name_url(&file.name);
                if !as_json {
                    reading.print(&format!("{object}: {}", words(&verdict, file)))?;
                }
                bad.push(json!({"object": object, "bytes": file.bytes, "found": verdict}));
            }
        }
    }
    let seconds = reading.elapsed();
    drop(reading);
    if as_json {
        let seconds = seconds.as_secs_f64();
        print(&format!("{:#}\n", json!({"files": count, "bytes": bytes, "seconds": seconds, "not_whole": bad})))?;
    } else {
        let rate = size((bytes as f64 / seconds.as_secs_f64().max(1e-6)) as u64);
        let found = if bad.is_empty() { "all are whole".to_owned() } else { format!("{} not whole", bad.len()) };
        print(&format!("{}, {} in {} ({rate}/s): {found}\n", counted(count, "file"), size(bytes), brief(seconds)))?;
    }
    Ok(if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(verdict: &Verdict, file: &ShardFile) -> String {
    match verdict {
        Verdict::Whole => "whole".into(),
        Verdict::Missing => "missing".into(),
        Verdict::Resized { found } => format!("{found} bytes instead of {}", file.bytes),
        Verdict::Damaged { blocks } if blocks.is_empty() => "damaged in its header: its rows can be read all the same".into(),
        Verdict::Damaged { blocks } => {
            let place = |block: &DamagedBlock| {
                let DamagedBlock { tensor, block, offset, rows } = block;
                format!("block {block} of {tensor} at offset {offset} (rows {} to {})", rows.start, rows.end.saturating_sub(1))
            };
            let named: Vec<String> = blocks.iter().take(SHOWN).map(place).collect();
            let more = blocks.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("damaged: {}{more}", named.join(", "))
        }
    }
}
