//! Turn a published data set into shards of images, masks and labels.
//!
//! Each worker writes every world-th shard; shards that are finished are skipped, so an interrupted job goes on where it stopped. What is
//! written does not depend on the number of workers.

use super::{BadInput, JobContext, failure_kind};
use crate::collectives::{Collective, CollectiveError};
use crate::data::datasets::{self, ImportError, Part};
use crate::scenes::Split;
use anyhow::{Context, Result, bail};
use common::config::{Config, ImportConfig};
use common::control::FailureKind;
use common::shards::{ShardEntry, ShardWriter};
use common::storage::Store;
use rayon::ThreadPool;
use serde_json::{Map, Value, json};
use std::ops::Range;
use tch::Tensor;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let config = context.config.clone();
    let import = config.import.as_ref().ok_or_else(|| BadInput::message("the configuration has no table [import]"))?;
    // As many as a tensor operation would use: what the launcher gives to each worker.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(tch::get_num_threads().max(1) as usize).build()?;
    let importer = pool.install(|| datasets::open(import, &context.runtime))?;
    // Both splits are looked at before anything is written.
    let parts = Split::ALL.map(|split| Part::of(&*importer, &config, import, split).map(|part| (split, part)));
    let mut summary = Map::new();
    for part in parts.into_iter().collect::<Result<Vec<_>, _>>()? {
        let (split, part) = part;
        let job = Job::open(context, &config, import, split, part)?;
        let state = if job.writer.committed().is_some() {
            "there already"
        } else if job.write(context, &pool)? {
            "imported"
        } else {
            return Ok(json!({"stopped": true}));
        };
        let fingerprint = context.complete(&job.writer)?;
        let rows = job.part.count();
        tracing::info!("{}/{}: {rows} images, {state}", config.data.images, split.name());
        summary.insert(split.name().to_owned(), json!({"rows": rows, "state": state, "fingerprint": fingerprint}));
    }
    summary.insert("images".to_owned(), config.data.images.into());
    Ok(Value::Object(summary))
}

/// One split of the data set.
struct Job<'p> {
    split: Split,
    part: Part<'p>,
    writer: ShardWriter,
}

impl<'p> Job<'p> {
    fn open(context: &JobContext, config: &Config, import: &ImportConfig, split: Split, part: Part<'p>) -> Result<Self> {
        let store = Store::open(&config.data.images)?.child(split.name());
        let metadata = metadata(config, import, split, &part);
        let rows_per_shard = config.data.rows_per_shard as u64;
        let writer = ShardWriter::open(store, part.format().schema().clone(), metadata, part.count(), rows_per_shard);
        Ok(Self { split, part, writer: context.runtime.block_on(writer)? })
    }

    /// Writes this worker's shards. False if any worker was asked to stop before its last shard.
    ///
    /// Workers go shard by shard together, so that all of them learn at once that one is asked to stop, or has met bad input: what was
    /// written in this launch is then taken back, for the input, or what is asked of it, is going to be another one.
    fn write(&self, context: &mut JobContext, pool: &ThreadPool) -> Result<bool> {
        let (place, shards) = (context.place, self.writer.shards());
        let finished: Vec<u32> = context.runtime.block_on(self.writer.finished_shards())?.iter().map(|shard| shard.index).collect();
        let mine = (place.rank as u32..shards).step_by(place.world);
        let mut progress = Progress { done: 0, total: mine.map(|index| length(&self.writer.shard_rows(index))).sum() };
        let mut written = Vec::new();
        for first in (0..shards).step_by(place.world) {
            let index = first + place.rank as u32;
            let rows = self.writer.shard_rows(index);
            let done = if finished.contains(&index) || rows.is_empty() {
                progress.done += length(&rows);
                Ok(true)
            } else {
                self.write_shard(context, pool, index, &mut progress, &mut written)
            };
            // What is wrong with the place of the data set is no reason to take back what it holds.
            let of_source = |error: &anyhow::Error| error.is::<ImportError>() && failure_kind(error) == FailureKind::BadInput;
            let failed = done.as_ref().err().is_some_and(of_source);
            if done.is_err() && !failed {
                return done;
            }
            let [stopped, failures] = agree(context, [!failed && matches!(done, Ok(false)), failed])?;
            if failures {
                context.runtime.block_on(self.writer.discard(&written))?;
                context.collective.barrier()?;
                done.with_context(|| format!("the {} split cannot be imported", self.split.name()))?;
                // Whoever met it tells what it is.
                bail!(CollectiveError::Transport { operation: "import", cause: "another worker has met bad input".into() });
            }
            if stopped {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Imports and writes one shard. False when asked to stop.
    fn write_shard(
        &self,
        context: &JobContext,
        pool: &ThreadPool,
        index: u32,
        progress: &mut Progress,
        written: &mut Vec<ShardEntry>,
    ) -> Result<bool> {
        if context.stop.requested() {
            return Ok(false);
        }
        let unit = format!("{} images", self.split.name());
        let step = |count: u64| {
            progress.done += count;
            context.reporter.progress(progress.done, progress.total, &unit, &[]);
            !context.stop.requested()
        };
        let Some(columns) = pool.install(|| self.part.columns(self.writer.shard_rows(index), step))? else { return Ok(false) };
        written.push(context.runtime.block_on(self.writer.write_shard(index, &columns))?);
        Ok(true)
    }
}

/// This worker's images of one split.
struct Progress {
    done: u64,
    total: u64,
}

/// Which of these things hold for any worker.
fn agree(context: &mut JobContext, things: [bool; 2]) -> Result<[bool; 2]> {
    let counts = Tensor::from_slice(&things.map(i64::from));
    context.collective.all_reduce_sum(&counts)?;
    Ok([0, 1].map(|thing| counts.int64_value(&[thing]) > 0))
}

fn length(rows: &Range<u64>) -> u64 {
    rows.end.saturating_sub(rows.start)
}

/// Everything that determines the rows but the content of the files, for which the digest of their names stands; and the names behind the
/// codes of the categories. What is known about the data set by those who have exported it goes before.
fn metadata(config: &Config, import: &ImportConfig, split: Split, part: &Part<'_>) -> Value {
    let mut metadata = json!({
        "kind": "import",
        "layout": import.layout,
        "split": split.name(),
        "resolution": config.data.resolution,
        "crop": import.crop,
        "frame_stride": import.frame_stride,
        "members": part.digest(),
        "categories": part.format().categories(),
    });
    for (field, value) in part.format().origin() {
        metadata[field] = value.clone();
    }
    metadata
}
