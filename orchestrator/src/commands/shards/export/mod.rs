//! `orchestrator shards export`: a data set as other trainers read it. Images stay encoded; no pixel is touched.

mod lightningdit;
mod webdataset;

use std::process::ExitCode;

use clap::ValueEnum;
use common::shards::{Column, Dataset, OwnedRows};
use common::storage::Store;
use serde_json::json;

use super::{Split, open};
use crate::commands::checkpoints::reading::Reading;
use crate::commands::checkpoints::table::size;
use crate::commands::output::print;
use crate::commands::words::counted;
use crate::exit::Failure;

/// What others read.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// Tar files of samples: KEY.image.jpg, KEY.mask.png, KEY.moments.npy
    Webdataset,
    /// Safetensors files with latents, latents_flip and labels: means of the posterior in f32
    Lightningdit,
}

/// The columns of one shard, with its first row in the data set.
struct Shard {
    index: u32,
    first: u64,
    rows: u64,
    columns: Vec<(Column, OwnedRows)>,
}

/// Writes each split into a folder of its own, a file per shard.
pub(super) async fn run(url: &str, to: &str, format: Format, as_json: bool) -> Result<ExitCode, Failure> {
    let target = Store::open(to).map_err(Failure::bad_input)?;
    let (splits, left_out) = format.suited(open(url).await?)?;
    if !target.list("").await.map_err(anyhow::Error::from)?.is_empty() {
        return Err(Failure::bad_input(format!("{}: is not empty; choose another place for the export", target.url())));
    }
    let reading = Reading::of(
        splits.iter().flat_map(|split| &split.manifest.shards).flat_map(|shard| &shard.files).map(|file| file.bytes).sum(),
    );
    let (mut files, mut bytes) = (0, 0);
    for split in splits {
        let name = split.store.url().rsplit('/').next().unwrap_or_default().to_owned();
        let dataset = Dataset::open(split.store, 0).await.map_err(anyhow::Error::from)?;
        let manifest = dataset.manifest();
        for entry in &manifest.shards {
            let first = u64::from(entry.index) * manifest.rows_per_shard;
            let rows: Vec<u64> = (first..first + entry.rows).collect();
            let mut shard = Shard { index: entry.index, first, rows: entry.rows, columns: Vec::new() };
            for column in manifest.schema.columns.iter().filter(|column| format.takes(&column.name)) {
                let rows = dataset.read(&column.name, &rows).await.map_err(anyhow::Error::from)?;
                shard.columns.push((column.clone(), rows));
            }
            let (object, content) = match format {
                Format::Webdataset => (format!("{:05}.tar", shard.index), webdataset::tar(&shard, &manifest.metadata)),
                Format::Lightningdit => {
                    (format!("latents_rank00_shard{:03}.safetensors", shard.index), lightningdit::file(&shard)?)
                }
            };
            (files, bytes) = (files + 1, bytes + content.len() as u64);
            target.child(&name).put(&object, content.into()).await.map_err(anyhow::Error::from)?;
            reading.now(format!("{name}/{object}"));
            reading.read(entry.files.iter().map(|file| file.bytes).sum());
        }
    }
    drop(reading);
    print(&if as_json {
        format!("{:#}\n", json!({"to": target.url(), "files": files, "bytes": bytes, "left_out": left_out}))
    } else {
        let left_out: String = left_out.iter().map(|url| format!("left out: {url}, without mirrored images\n")).collect();
        format!("{}, {} in {}\n{left_out}", counted(files, "file"), size(bytes), target.url())
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Format {
    /// The splits that can be exported, and where the others are: evaluation never mirrors, and LightningDiT evaluates without latents. Nothing
    /// is written before this is known.
    fn suited(self, splits: Vec<Split>) -> Result<(Vec<Split>, Vec<String>), Failure> {
        let missing = |split: &Split| match self {
            Self::Webdataset => None,
            Self::Lightningdit => lightningdit::missing(&split.manifest.schema),
        };
        let (suited, others): (Vec<_>, Vec<_>) = splits.into_iter().partition(|split| missing(split).is_none());
        match others.first().and_then(|split| Some((split.store.url(), missing(split)?))) {
            Some((url, (name, hint))) if suited.is_empty() => {
                let reason = format!("has no column {name} of posterior moments, which LightningDiT needs; {hint}");
                Err(Failure::bad_input(format!("{url}: {reason}")))
            }
            _ => Ok((suited, others.iter().map(|split| split.store.url().to_owned()).collect())),
        }
    }

    fn takes(self, column: &str) -> bool {
        match self {
            Self::Webdataset => true,
            Self::Lightningdit => lightningdit::COLUMNS.contains(&column),
        }
    }
}
