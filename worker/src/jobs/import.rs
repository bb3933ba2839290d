//! Turn a published data set into shards of images, masks and labels.
//!
//! Each worker writes every world-th shard; shards that are finished are skipped, so an interrupted job goes on where it stopped. What is
//! written does not depend on the number of workers.

use super::{BadInput, JobContext};
use crate::collectives::Collective;
use crate::data::datasets::{self, Part};
use crate::scenes::Split;
use anyhow::{Context, Result};
use common::config::{Config, ImportConfig};
use common::shards::ShardWriter;
use common::storage::Store;
use rayon::ThreadPool;
use serde_json::{Map, Value, json};
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
        let fingerprint = job.commit(context)?;
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
        let writer = ShardWriter::open(store, part.format().schema(), metadata, part.count(), rows_per_shard);
        Ok(Self { split, part, writer: context.runtime.block_on(writer)? })
    }

    /// Writes this worker's shards. False if any worker was asked to stop before its last shard.
    fn write(&self, context: &mut JobContext, pool: &ThreadPool) -> Result<bool> {
        let place = context.place;
        let finished = context.runtime.block_on(self.writer.finished_shards())?;
        let mine: Vec<u32> = (place.rank as u32..self.writer.shards()).step_by(place.world).collect();
        let rows = |index: u32| self.writer.shard_rows(index).end - self.writer.shard_rows(index).start;
        let (mut done, total) = (0, mine.iter().map(|&index| rows(index)).sum());
        let mut complete = true;
        for index in mine {
            if finished.iter().any(|shard| shard.index == index) {
                done += rows(index);
                continue;
            }
            let (stop, reporter, unit) = (&context.stop, &context.reporter, format!("{} images", self.split.name()));
            let mut so_far = done;
            let progress = |count: u64| {
                so_far += count;
                reporter.progress(so_far, total, &unit, &[]);
                !stop.requested()
            };
            let imported = pool.install(|| self.part.columns(self.writer.shard_rows(index), progress));
            let Some(columns) = imported.with_context(|| format!("the {} split cannot be imported", self.split.name()))? else {
                complete = false;
                break;
            };
            context.runtime.block_on(self.writer.write_shard(index, &columns))?;
            done += rows(index);
        }
        // Also the barrier after which all shards are there.
        let stopped = Tensor::from_slice(&[i64::from(!complete)]);
        context.collective.all_reduce_sum(&stopped)?;
        Ok(stopped.int64_value(&[0]) == 0)
    }

    /// Rank 0 completes the data set while the others wait. Returns its fingerprint there.
    fn commit(&self, context: &mut JobContext) -> Result<Option<String>> {
        let manifest = if context.place.is_leader() { Some(context.runtime.block_on(self.writer.commit())?) } else { None };
        context.collective.barrier()?;
        Ok(manifest.map(|manifest| manifest.fingerprint().to_owned()))
    }
}

/// Everything that determines the rows but the content of the files, for which the digest of their names stands; and the names behind the
/// codes of the categories.
fn metadata(config: &Config, import: &ImportConfig, split: Split, part: &Part<'_>) -> Value {
    json!({
        "kind": "import",
        "layout": import.layout,
        "split": split.name(),
        "resolution": config.data.resolution,
        "crop": import.crop,
        "frame_stride": import.frame_stride,
        "members": part.digest(),
        "categories": part.format().categories(),
    })
}
