//! Batches are the same however images are stored, whatever is fetched ahead, and whoever of how many workers takes part.

use super::{Loader, Slice, encode_columns, image_column, open_split};
use crate::training::detours::Detours;
use common::config::{Config, load};
use common::sampler::SampleOrder;
use common::shards::{Column, DType, OwnedRows, Schema, ShardWriter};
use common::storage::Store;
use serde_json::json;
use std::ops::Range;
use std::path::Path;
use tch::{Kind, Tensor};
use tokio::runtime::Runtime;

const ROWS: u64 = 40;
const BATCH: usize = 6;
const SIDE: usize = 16;

fn config(folder: &Path, format: &str, more: &[&str]) -> Config {
    let overrides = [
        format!("data.latents=\"{}\"", folder.join(format).display()),
        format!("data.resolution={SIDE}"),
        format!("data.image_format={format}"),
        "data.image_quality=95".into(),
        "data.flip=true".into(),
        "data.shuffle_window=2".into(),
        "autoencoder.block_channels=[8, 8]".into(),
        "autoencoder.norm_groups=4".into(),
    ];
    let overrides: Vec<String> = overrides.into_iter().chain(more.iter().map(ToString::to_string)).collect();
    load::from_str(include_str!("../../../configs/quickstart.toml"), "quickstart.toml", &overrides).unwrap()
}

/// A gradient whose direction and colour tell the row, u8 [16, 16, 3].
fn image(row: u64) -> Vec<u8> {
    let pixels = (0..SIDE as u64).flat_map(|y| (0..SIDE as u64).map(move |x| (y, x)));
    pixels.flat_map(|(y, x)| [row * 6, 4 * y + row % 5 * 8, 6 * x]).map(|colour| colour as u8).collect()
}

/// Moments whose every number is the row, f16 [8, 8, 8]; negative for the mirrored image.
fn moments(row: u64, sign: f32) -> Vec<u8> {
    half::f16::from_f32(sign * (row + 1) as f32).to_le_bytes().repeat(8 * 8 * 8)
}

async fn write(config: &Config) {
    let store = Store::open(&config.data.latents).unwrap().child("train");
    let columns = ["moments", "moments_flipped"].map(|name| Column::hot(name, DType::F16, &[8, 8, 8]));
    let schema = Schema { columns: columns.into_iter().chain([image_column(&config.data, "image", SIDE)]).collect() };
    let writer = ShardWriter::open(store, schema.clone(), json!({}), ROWS, 8).await.unwrap();
    for index in 0..writer.shards() {
        let column = |row: &dyn Fn(u64) -> Vec<u8>| writer.shard_rows(index).flat_map(row).collect::<Vec<u8>>();
        let columns = [column(&|row| moments(row, 1.0)), column(&|row| moments(row, -1.0)), column(&image)];
        let columns: Vec<OwnedRows> = encode_columns(&schema, columns).unwrap();
        writer.write_shard(index, &columns).await.unwrap();
    }
    writer.commit().await.unwrap();
}

/// Images and moments of the global batches `steps`, put together from those of `world` workers.
fn batches(config: &Config, world: usize, steps: Range<u64>, runtime: &Runtime) -> Vec<(Tensor, Tensor)> {
    let loader = |rank| {
        let dataset = open_split(runtime.handle(), &config.data, &config.data.latents, "train").unwrap();
        let slice = Slice { global_batch: BATCH, rank, world };
        Loader::start(config, "latents", dataset, slice, steps.clone(), &Detours::default(), runtime.handle()).unwrap()
    };
    let mut loaders: Vec<Loader> = (0..world).map(loader).collect();
    steps
        .clone()
        .map(|step| {
            let parts: Vec<_> = loaders.iter_mut().map(|loader| loader.next_batch().unwrap().unwrap()).collect();
            assert!(parts.iter().all(|part| part.step == step));
            let cat = |tensors: Vec<&Tensor>| Tensor::cat(&tensors, 0);
            (cat(parts.iter().map(|part| &part.images).collect()), cat(parts.iter().map(|part| &part.moments).collect()))
        })
        .collect()
}

#[test]
fn batches_are_those_of_the_order_mirrored_in_both_columns() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let config = config(folder.path(), "png", &[]);
    runtime.block_on(write(&config));
    let order = SampleOrder::new(config.run.seed, &[8; 5], 2).unwrap();
    let mut mirrored = 0;
    // Into the third epoch.
    for (step, (images, moments)) in batches(&config, 1, 0..14, &runtime).into_iter().enumerate() {
        let rows = order.samples((step * BATCH) as u64..((step + 1) * BATCH) as u64);
        for (index, row) in rows.into_iter().enumerate() {
            let expected = Tensor::from_data_size(&image(row), &[SIDE as i64, SIDE as i64, 3], Kind::Uint8);
            let moments = moments.get(index as i64).to_kind(Kind::Float);
            let [least, most] = [moments.min(), moments.max()].map(|bound| bound.double_value(&[]));
            let flipped = most < 0.0;
            mirrored += u64::from(flipped);
            let expected = if flipped { expected.flip([1]) } else { expected };
            assert!(images.get(index as i64).equal(&expected), "step {step}, row {row}");
            assert_eq!((least.abs(), most.abs()), ((row + 1) as f64, (row + 1) as f64));
        }
    }
    assert!((20..64).contains(&mirrored), "{mirrored} of 84");
}

#[test]
fn storage_fetching_ahead_and_workers_change_no_batch() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let steps = 3..17;
    let mut reference: Option<Vec<(Tensor, Tensor)>> = None;
    for format in ["raw", "png", "jpeg", "webp"] {
        runtime.block_on(write(&config(folder.path(), format, &[])));
        for (more, world) in [(&["data.prefetch_mib=0", "data.cache_mib=1"][..], 1), (&["data.prefetch=1"][..], 2), (&[][..], 5)] {
            let found = batches(&config(folder.path(), format, more), world, steps.clone(), &runtime);
            let expected = reference.get_or_insert_with(|| found.iter().map(|(a, b)| (a.copy(), b.copy())).collect());
            for ((images, moments), (images_expected, moments_expected)) in found.iter().zip(expected) {
                let difference = (images.to_kind(Kind::Float) - images_expected.to_kind(Kind::Float)).abs();
                let mean = difference.mean(Kind::Float).double_value(&[]);
                let allowed = match format {
                    "raw" | "png" => 0.0,
                    "jpeg" => 3.0,
                    _ => 6.0,
                };
                assert!(mean <= allowed, "{format}: images differ by {mean} on average");
                assert!(moments.equal(moments_expected), "{format} {more:?} {world}");
            }
        }
    }
}

#[test]
fn bytes_that_are_no_image_are_named_with_their_row() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let config = config(folder.path(), "jpeg", &[]);
    let error = runtime.block_on(async {
        let store = Store::open(&config.data.latents).unwrap();
        let schema = Schema { columns: vec![image_column(&config.data, "image", SIDE)] };
        let writer = ShardWriter::open(store.clone(), schema.clone(), json!({}), 2, 8).await.unwrap();
        let OwnedRows::Encoded(mut rows) = encode_columns(&schema, [image(0).repeat(2)]).unwrap().swap_remove(0) else { panic!() };
        rows[1].truncate(30);
        writer.write_shard(0, &[OwnedRows::Encoded(rows)]).await.unwrap();
        writer.commit().await.unwrap();
        let dataset = common::shards::Dataset::open(store, 1 << 20).await.unwrap();
        assert_eq!(super::read_tensor(&dataset, "image", &[0]).await.unwrap().size(), [1, 16, 16, 3]);
        super::read_tensor(&dataset, "image", &[0, 1]).await.unwrap_err()
    });
    assert!(error.is_bad_input() && error.to_string().contains("jpeg: row 1: column image as jpeg of quality 95"), "{error}");
}

/// Three epochs by two workers that keep what they decode; then nothing encoded is read any more, but for what is damaged.
#[test]
fn what_was_decoded_once_is_read_from_then_on() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let plain = config(folder.path(), "jpeg", &[]);
    runtime.block_on(write(&plain));
    let cache = folder.path().join("cache");
    let keeps = ["data.cache_decoded=true".into(), format!("data.cache_folder=\"{}\"", cache.display())];
    let keeping = config(folder.path(), "jpeg", &keeps.each_ref().map(String::as_str));
    let expected = batches(&plain, 1, 0..20, &runtime);
    for (found, expected) in batches(&keeping, 2, 0..20, &runtime).iter().zip(&expected) {
        assert!(found.0.equal(&expected.0) && found.1.equal(&expected.1));
    }
    let open = |config: &Config| open_split(runtime.handle(), &config.data, &config.data.latents, "train").unwrap();
    let rows: Vec<u64> = (0..ROWS).rev().collect();
    let images = |dataset: &common::shards::Dataset| runtime.block_on(super::read_tensor(dataset, "image", &rows)).unwrap();
    let (kept, expected) = (open(&keeping), images(&open(&plain)));
    assert!(images(&kept).equal(&expected));
    assert_eq!(kept.traffic().asked, 0, "no encoded image is needed");

    let files = walk(&cache).into_iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("kept")));
    for path in files {
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    for asked in [10, 10] {
        assert!(images(&kept).equal(&expected));
        assert_eq!(kept.traffic().asked, asked, "a block and its offsets of each of five shards, and then no more");
    }
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
