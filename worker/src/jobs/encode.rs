//! Encode images into the posterior moments of their latents, once, so that training never runs the autoencoder.
//!
//! Each worker writes every world-th shard; shards that are finished are skipped, so an interrupted job goes on where it stopped. What is
//! written does not depend on the number of workers.
//!
//! With `data.flip` the training split also gets the moments of the mirrored images, encoded like any other image.

use super::JobContext;
use crate::collectives::Collective;
use crate::data::{Images, MOMENTS, MOMENTS_FLIPPED, to_unit_range};
use crate::model::Autoencoder;
use anyhow::Result;
use common::shards::{Column, DType, Manifest, OwnedRows, SCALING_FACTOR, Schema, ShardWriter};
use common::storage::Store;
use serde_json::{Map, Value, json};
use std::ops::Range;
use tch::{Kind, Tensor};

/// The splits of a data set, in the order in which they are encoded.
const SPLITS: [&str; 2] = ["train", "validation"];
/// Images per forward pass. Constant, so that the bytes written do not depend on anything but the images.
const BATCH: u64 = 32;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let autoencoder = Autoencoder::load(&context.config.autoencoder, context.device, &context.runtime)?;
    let _guard = tch::no_grad_guard();
    let mut summary = Map::new();
    for split in SPLITS {
        let job = Split::open(context, split, &autoencoder)?;
        if !job.write(context, &autoencoder)? {
            return Ok(json!({"stopped": true}));
        }
        let fingerprint = context.complete(&job.writer)?;
        summary.insert(split.to_owned(), json!({"rows": job.images.dataset().rows(), "fingerprint": fingerprint}));
    }
    summary.insert("latents".to_owned(), context.config.data.latents.clone().into());
    Ok(Value::Object(summary))
}

/// One split: the images it is made from, and the writer of the encoded data set.
struct Split {
    name: &'static str,
    images: Images,
    writer: ShardWriter,
    /// Whether the moments of the mirrored images are written too.
    flip: bool,
}

impl Split {
    fn open(context: &JobContext, name: &'static str, autoencoder: &Autoencoder) -> Result<Self> {
        let data = &context.config.data;
        let images = Images::open(&context.runtime, data, name)?;
        let source = images.dataset().manifest();
        // Evaluation never mirrors.
        let flip = data.flip && name == "train";
        let schema = schema(context, source, flip);
        let metadata = metadata(source, autoencoder);
        let store = Store::open(&data.latents)?.child(name);
        let writer = ShardWriter::open(store, schema, metadata, source.rows(), data.rows_per_shard as u64);
        let writer = context.runtime.block_on(writer)?;
        Ok(Self { name, images, writer, flip })
    }

    /// Writes this worker's shards. False if any worker was asked to stop before its last shard.
    fn write(&self, context: &mut JobContext, autoencoder: &Autoencoder) -> Result<bool> {
        let place = context.place;
        let finished: Vec<u32> = match self.writer.committed() {
            Some(_) => (0..self.writer.shards()).collect(),
            None => context.runtime.block_on(self.writer.finished_shards())?.iter().map(|shard| shard.index).collect(),
        };
        let mine: Vec<u32> = (place.rank as u32..self.writer.shards()).step_by(place.world).collect();
        let total = mine.iter().map(|&index| length(&self.writer.shard_rows(index))).sum();
        let mut done = 0;
        let mut stopped = false;
        for index in mine {
            stopped = context.stop.requested();
            if stopped {
                break;
            }
            let rows = self.writer.shard_rows(index);
            if !finished.contains(&index) {
                self.write_shard(context, autoencoder, index)?;
            }
            done += length(&rows);
            context.reporter.progress(done, total, &format!("{} images", self.name), &[]);
        }
        // Also the barrier after which all shards are there.
        let stopped = Tensor::from_slice(&[i64::from(stopped)]);
        context.collective.all_reduce_sum(&stopped)?;
        Ok(stopped.int64_value(&[0]) == 0)
    }

    /// Encodes and writes the rows of one shard.
    fn write_shard(&self, context: &JobContext, autoencoder: &Autoencoder, index: u32) -> Result<()> {
        let source = self.images.dataset();
        let rows = self.writer.shard_rows(index);
        let mut columns = vec![Vec::new(); if self.flip { 2 } else { 1 }];
        for start in rows.clone().step_by(BATCH as usize) {
            let batch: Vec<u64> = (start..(start + BATCH).min(rows.end)).collect();
            let images = to_unit_range(&context.runtime.block_on(self.images.read(&batch))?.to_device(context.device));
            columns[0].extend(half_bytes(&autoencoder.encode_moments(&images))?);
            if self.flip {
                columns[1].extend(half_bytes(&autoencoder.encode_moments(&images.flip([3])))?);
            }
        }
        let mut columns: Vec<OwnedRows> = columns.into_iter().map(OwnedRows::Fixed).collect();
        let rows: Vec<u64> = rows.collect();
        // Images stay as they are encoded.
        for column in carried(source.manifest()) {
            columns.push(context.runtime.block_on(source.read(&column.name, &rows))?);
        }
        context.runtime.block_on(self.writer.write_shard(index, &columns))?;
        Ok(())
    }
}

/// The columns of the images' data set that are kept: all but moments, which tar files of samples may have brought along.
fn carried(source: &Manifest) -> impl Iterator<Item = &Column> {
    source.schema.columns.iter().filter(|column| ![MOMENTS, MOMENTS_FLIPPED].contains(&column.name.as_str()))
}

/// The moments, which training reads at every step, then the columns of the images' data set in files of their own.
fn schema(context: &JobContext, source: &Manifest, flip: bool) -> Schema {
    let autoencoder = &context.config.autoencoder;
    let side = context.config.data.resolution >> (autoencoder.block_channels.len() - 1);
    let names = if flip { &[MOMENTS, MOMENTS_FLIPPED][..] } else { &[MOMENTS] };
    let moments = names.iter().map(|name| Column::hot(name, DType::F16, &[2 * autoencoder.latent_channels as usize, side, side]));
    let carried = carried(source).map(|column| Column { cold: true, ..column.clone() });
    Schema { columns: moments.chain(carried).collect() }
}

/// What determines the encoded data set: the images and the autoencoder.
fn metadata(source: &Manifest, autoencoder: &Autoencoder) -> Value {
    let mut metadata = source.metadata.as_object().cloned().unwrap_or_default();
    metadata.insert("images".into(), source.fingerprint().into());
    metadata.insert("autoencoder".into(), autoencoder.digest.clone().into());
    metadata.insert(SCALING_FACTOR.into(), autoencoder.scaling_factor.into());
    Value::Object(metadata)
}

/// The values of a tensor as little-endian half-precision floats.
fn half_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = Vec::<half::f16>::try_from(tensor.to_kind(Kind::Half).contiguous().flatten(0, -1))?;
    Ok(values.into_iter().flat_map(half::f16::to_le_bytes).collect())
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}
