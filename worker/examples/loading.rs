//! Our side of `tests/peers/loading.py`: writes a data set of images and moments, beside it the same as plain files for the peers, and measures
//! how fast rows of it become batches.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use common::config::{Config, load};
use common::sampler::SampleOrder;
use common::shards::{Column, DType, Dataset, OwnedRows, ReadAhead, Schema, ShardWriter};
use common::storage::Store;
use serde_json::json;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Tensor;
use tokio::runtime::Handle;
use worker::data::{MOMENTS, encode_columns, image_column, open_split, read_tensor};

/// Measures how fast rows become batches
#[derive(Parser)]
struct Arguments {
    /// The experiment, for its [data]
    #[arg(long, default_value = "configs/quickstart.toml")]
    config: PathBuf,
    /// Change one key of the experiment
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What to do
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write rows to data.latents
    Write {
        /// Rows
        #[arg(long)]
        rows: u64,
        /// A folder for the same rows as plain files
        #[arg(long)]
        plain: Option<PathBuf>,
    },
    /// Read data.latents in the order of training
    Read {
        /// Rows per batch
        #[arg(long, default_value_t = 32)]
        batch: u64,
        /// Epochs; the figure is that of all but the first
        #[arg(long, default_value_t = 2)]
        epochs: u64,
        /// Leave the images out
        #[arg(long)]
        moments_only: bool,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.config).with_context(|| arguments.config.display().to_string())?;
    let config = load::from_str(&text, &arguments.config.display().to_string(), &arguments.set)?;
    tch::set_num_threads(std::thread::available_parallelism()?.get() as i32);
    // No thread ends before the last figure: what it computed would be missing.
    let keep = Duration::from_secs(24 * 60 * 60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_keep_alive(keep).enable_all().build()?;
    match arguments.command {
        Command::Write { rows, plain } => runtime.block_on(write(&config, rows, plain.as_deref())),
        Command::Read { batch, epochs, moments_only } => read(&config, batch, epochs, moments_only, runtime.handle()),
    }
}

/// A picture with shading, edges and some noise, u8 [side, side, 3].
fn picture(side: usize, row: u64) -> Vec<u8> {
    let mut state = row.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let discs: Vec<[f32; 6]> = (0..7)
        .map(|disc| [37, 53, 29, 71, 97, 43].map(|factor: u64| ((row * 13 + disc * factor + factor) % 100) as f32 / 100.0))
        .collect();
    let mut pixels = Vec::with_capacity(side * side * 3);
    for place in 0..side * side {
        let (x, y) = ((place % side) as f32 / side as f32, (place / side) as f32 / side as f32);
        let mut colour = [90.0 + 60.0 * y, 100.0, 120.0 - 40.0 * x];
        for [cx, cy, size, red, green, blue] in &discs {
            let distance = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt() / (0.08 + size / 8.0);
            if distance < 1.0 {
                let light = 255.0 * (1.0 - distance * distance).sqrt();
                colour = [red * light, green * light, blue * light];
            }
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pixels.extend(colour.map(|value| (value + (state >> 60) as f32 - 8.0) as u8));
    }
    pixels
}

/// Latent channels and side of a picture's moments.
fn moments_shape(config: &Config) -> [usize; 3] {
    let side = config.data.resolution / 8;
    [8, side, side]
}

async fn write(config: &Config, rows: u64, plain: Option<&Path>) -> Result<()> {
    let (side, shape) = (config.data.resolution, moments_shape(config));
    let schema = Schema { columns: vec![Column::hot(MOMENTS, DType::F16, &shape), image_column(&config.data, "image", side)] };
    let store = Store::open(&config.data.latents)?.child("train");
    let writer =
        ShardWriter::open(store, schema.clone(), json!({"kind": "loading"}), rows, config.data.rows_per_shard as u64).await?;
    let row_bytes = schema.columns[0].row_bytes();
    for index in 0..writer.shards() {
        let range = writer.shard_rows(index);
        let images = range.clone().flat_map(|row| picture(side, row)).collect();
        let moments =
            range.clone().flat_map(|row| (0..row_bytes).map(move |byte| (row as usize * 31 + byte * 7) as u8 & 0x3B)).collect();
        let columns = encode_columns(&schema, [moments, images])?;
        if let (Some(folder), [OwnedRows::Fixed(moments), OwnedRows::Encoded(images)]) = (plain, &columns[..]) {
            std::fs::create_dir_all(folder)?;
            for ((row, image), moments) in range.zip(images).zip(moments.chunks(row_bytes)) {
                std::fs::write(folder.join(format!("{row:06}.jpg")), image)?;
                std::fs::write(folder.join(format!("{row:06}.moments")), moments)?;
            }
        }
        writer.write_shard(index, &columns).await?;
    }
    writer.commit().await?;
    Ok(())
}

/// Batches of consecutive steps, a few of them under way.
fn read(config: &Config, batch: u64, epochs: u64, moments_only: bool, runtime: &Handle) -> Result<()> {
    let begun = Instant::now();
    let dataset = open_split(runtime, &config.data, &config.data.latents, "train")?;
    let order = SampleOrder::new(config.run.seed, &dataset.manifest().shard_rows(), config.data.shuffle_window)?;
    let columns: &'static [&'static str] = if moments_only { &[MOMENTS] } else { &[MOMENTS, "image"] };
    let mib = config.data.prefetch_mib.min(config.data.cache_mib / 2) as u64;
    let mut ahead = ReadAhead::new(dataset.clone(), mib << 20, runtime);
    let steps = dataset.rows() / batch;
    ensure!(steps > 0, "fewer rows than one batch");
    let rows = |step: u64| order.samples(step * batch..(step + 1) * batch);
    let (mut pending, mut next, mut looked, mut first) = (VecDeque::new(), 0, 0, None);
    let mut start = (Instant::now(), cpu_seconds()?, 0);
    for epoch in 0..epochs {
        if epoch == 1 {
            start = (Instant::now(), cpu_seconds()?, 1);
        }
        for step in epoch * steps..(epoch + 1) * steps {
            while looked < epochs * steps && ahead.has_room() && mib > 0 {
                let needs: Vec<_> = columns.iter().map(|column| (*column, rows(looked))).collect();
                ahead.push(looked, &needs)?;
                looked += 1;
            }
            while pending.len() < config.data.prefetch && next < epochs * steps {
                pending.push_back(runtime.spawn(batch_of(dataset.clone(), columns, rows(next))));
                next += 1;
            }
            let tensors = pending.pop_front().context("no batch")?;
            let tensors: Vec<Tensor> = runtime.block_on(tensors)??;
            ensure!(tensors.iter().all(|tensor| tensor.size()[0] == batch as i64));
            first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
            ahead.done(step);
        }
        // Asking the system after every epoch would be part of what is measured.
        if (1..epochs - 1).contains(&epoch) {
            continue;
        }
        let (since, cpu, first_epoch) = start;
        let rows = ((epoch + 1 - first_epoch) * steps * batch) as f64;
        let rate = rows / since.elapsed().as_secs_f64();
        let mib = dataset.traffic().fetched_bytes as f64 / f64::from(1 << 20);
        let per_core = rows / (cpu_seconds()? - cpu);
        let figures = json!({"epoch": epoch, "per_second": rate, "per_core": per_core, "first_batch": first, "fetched_mib": mib});
        println!("{figures}");
    }
    Ok(())
}

/// Seconds of computation of all threads of this process; none of them has ended.
fn cpu_seconds() -> Result<f64> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("empty")?.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

async fn batch_of(dataset: Arc<Dataset>, columns: &[&str], rows: Vec<u64>) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for column in columns {
        tensors.push(read_tensor(&dataset, column, &rows).await?);
    }
    Ok(tensors)
}
