//! Draw the built-in data set: ray-traced rooms with exact masks and attributes.
//!
//! Each worker draws every world-th shard; shards that are finished are skipped, so an interrupted job goes on where it stopped. What is
//! written does not depend on the number of workers.

use super::{BadInput, JobContext};
use crate::collectives::Collective;
use crate::data::{encode_columns, image_column, label_column};
use crate::scenes::{ATTRIBUTES, MAX_OBJECTS, MIN_RESOLUTION, Rendering, SceneOptions, Split, draw};
use anyhow::{Result, bail};
use common::config::{Config, DataConfig};
use common::shards::{Column, DType, Schema, ShardWriter};
use common::storage::Store;
use rayon::ThreadPool;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tch::Tensor;

/// Scenes between two looks at the stop flag.
const CHUNK: u64 = 64;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let side = context.config.data.resolution;
    if side < MIN_RESOLUTION {
        bail!(BadInput::message(format!("data.resolution = {side} is too small for scenes; make it {MIN_RESOLUTION} or more")));
    }
    // As many as a tensor operation would use: what the launcher gives to each worker.
    let artists = rayon::ThreadPoolBuilder::new().num_threads(tch::get_num_threads().max(1) as usize).build()?;
    let mut summary = Map::new();
    for split in Split::ALL {
        let part = Part::open(context, split)?;
        let state = if part.writer.committed().is_some() {
            "there already"
        } else if part.write(context, &artists)? {
            "drawn"
        } else {
            return Ok(json!({"stopped": true}));
        };
        let fingerprint = context.complete(&part.writer)?;
        tracing::info!("{}/{}: {} scenes, {state}", context.config.data.images, split.name(), part.count);
        let entry = json!({"scenes": part.count, "state": state, "fingerprint": fingerprint});
        summary.insert(split.name().to_owned(), entry);
    }
    summary.insert("images".to_owned(), context.config.data.images.clone().into());
    Ok(Value::Object(summary))
}

/// One split of the data set.
struct Part {
    split: Split,
    options: SceneOptions,
    resolution: usize,
    count: u64,
    schema: Schema,
    writer: ShardWriter,
}

impl Part {
    fn open(context: &JobContext, split: Split) -> Result<Self> {
        let config = &context.config;
        let count = match split {
            Split::Train => config.scenes.train,
            Split::Validation => config.scenes.validation,
        } as u64;
        let store = Store::open(&config.data.images)?.child(split.name());
        let (schema, metadata) = (schema(&config.data), metadata(config, split));
        let writer = ShardWriter::open(store, schema.clone(), metadata, count, config.data.rows_per_shard as u64);
        let writer = context.runtime.block_on(writer)?;
        Ok(Self { split, options: options(config), resolution: config.data.resolution, count, schema, writer })
    }

    /// Draws this worker's shards. False if any worker was asked to stop before its last shard.
    fn write(&self, context: &mut JobContext, artists: &ThreadPool) -> Result<bool> {
        let place = context.place;
        let finished = context.runtime.block_on(self.writer.finished_shards())?;
        let mine: Vec<u32> = (place.rank as u32..self.writer.shards()).step_by(place.world).collect();
        let mut progress = Progress { done: 0, total: mine.iter().map(|&index| self.rows(index)).sum() };
        let mut complete = true;
        for index in mine {
            if finished.iter().any(|shard| shard.index == index) {
                progress.done += self.rows(index);
                continue;
            }
            let Some(columns) = self.draw_shard(context, artists, index, &mut progress) else {
                complete = false;
                break;
            };
            let columns = artists.install(|| encode_columns(&self.schema, columns))?;
            context.runtime.block_on(self.writer.write_shard(index, &columns))?;
        }
        // Also the barrier after which all shards are there.
        let stopped = Tensor::from_slice(&[i64::from(!complete)]);
        context.collective.all_reduce_sum(&stopped)?;
        Ok(stopped.int64_value(&[0]) == 0)
    }

    /// The columns of one shard; none when asked to stop.
    fn draw_shard(&self, context: &JobContext, artists: &ThreadPool, index: u32, progress: &mut Progress) -> Option<[Vec<u8>; 3]> {
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        let rows = self.writer.shard_rows(index);
        for start in rows.clone().step_by(CHUNK as usize) {
            if context.stop.requested() {
                return None;
            }
            let chunk = start..(start + CHUNK).min(rows.end);
            let length = chunk.end - chunk.start;
            let draw_row = |row| draw(&self.options, self.split, row, self.resolution);
            let drawn: Vec<Rendering> = artists.install(|| chunk.into_par_iter().map(draw_row).collect());
            for Rendering { image, mask, attributes } in drawn {
                columns[0].extend(image);
                columns[1].extend(mask);
                columns[2].extend(attributes.into_iter().flat_map(f32::to_le_bytes));
            }
            progress.done += length;
            context.reporter.progress(progress.done, progress.total, &format!("{} scenes", self.split.name()), &[]);
        }
        Some(columns)
    }

    fn rows(&self, index: u32) -> u64 {
        let rows = self.writer.shard_rows(index);
        rows.end - rows.start
    }
}

/// This worker's scenes of one split.
struct Progress {
    done: u64,
    total: u64,
}

fn options(config: &Config) -> SceneOptions {
    let scenes = &config.scenes;
    let (min_objects, max_objects) = (scenes.min_objects, scenes.max_objects);
    SceneOptions { min_objects, max_objects, textured: scenes.textured, seed: scenes.seed }
}

/// Images, masks, attributes: none of them is what a training step reads most.
fn schema(data: &DataConfig) -> Schema {
    let side = data.resolution;
    let columns = vec![
        image_column(data, "image", side),
        label_column(data, "mask", side),
        Column::cold("attributes", DType::F32, &[MAX_OBJECTS, ATTRIBUTES]),
    ];
    Schema { columns }
}

/// Everything that determines the pixels.
fn metadata(config: &Config, split: Split) -> Value {
    let scenes = &config.scenes;
    json!({
        "kind": "scenes",
        "split": split.name(),
        "resolution": config.data.resolution,
        "seed": scenes.seed,
        "min_objects": scenes.min_objects,
        "max_objects": scenes.max_objects,
        "textured": scenes.textured,
    })
}
