//! Images to latents on threads as workers: the autoencoder is trained, the data set encoded, and neither depends on how many share the
//! work beyond rounding.

use super::crew::run_job;
use super::{JobContext, autoencoder, encode};
use crate::data::{encode_columns, image_column, label_column};
use crate::model::Autoencoder;
use common::config::{Config, ImageFormat, load};
use common::run_dir::RunDir;
use common::shards::{Column, DType, Dataset, OwnedRows, Schema, ShardWriter};
use common::storage::Store;
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

/// Rows of the splits.
const ROWS: [(&str, u64); 2] = [("train", 40), ("validation", 12)];

fn config(folder: &Path, steps: u64) -> Config {
    let place = |key: &str, name: &str| format!("{key}=\"{}\"", folder.join(name).display());
    let overrides = [
        place("data.images", "images"),
        place("data.latents", "latents"),
        place("autoencoder.weights", "autoencoder"),
        "data.resolution=16".into(),
        "data.rows_per_shard=8".into(),
        "autoencoder.block_channels=[8, 8]".into(),
        "autoencoder.norm_groups=4".into(),
        format!("autoencoder.train.steps={steps}"),
        "autoencoder.train.warmup_steps=5".into(),
        "autoencoder.train.learning_rate=0.01".into(),
        "autoencoder.train.global_batch=8".into(),
    ];
    load::from_str(include_str!("../../../configs/quickstart.toml"), "quickstart.toml", &overrides).unwrap()
}

/// Two-colour images, u8 [16, 16, 3], and the mask of the second colour.
fn scene(row: u64) -> (Vec<u8>, Vec<u8>) {
    let mask = |i: u64| u8::from(i / 16 > row % 13 && i % 16 > row % 7);
    let colour = |i: u64, channel: u64| ((row * 37 + channel * 91) % 200 + 55 * u64::from(mask(i))) as u8;
    ((0..256).flat_map(|i| (0..3).map(move |channel| colour(i, channel))).collect(), (0..256).map(mask).collect())
}

async fn write_images(folder: &Path) {
    let schema =
        Schema { columns: vec![Column::cold("image", DType::U8, &[16, 16, 3]), Column::cold("mask", DType::U8, &[16, 16])] };
    for (split, rows) in ROWS {
        let store = Store::open(folder.join("images").to_str().unwrap()).unwrap().child(split);
        let writer = ShardWriter::open(store, schema.clone(), json!({"kind": "scenes"}), rows, 16).await.unwrap();
        for index in 0..writer.shards() {
            let (images, masks): (Vec<_>, Vec<_>) = writer.shard_rows(index).map(scene).unzip();
            writer.write_shard(index, &[images.concat(), masks.concat()]).await.unwrap();
        }
        writer.commit().await.unwrap();
    }
}

/// Runs a job that needs no run folder on `world` threads; the summary of rank 0.
fn run(
    job: fn(&mut JobContext) -> anyhow::Result<Value>,
    config: &Config,
    world: usize,
    runtime: &Runtime,
) -> anyhow::Result<Value> {
    run_job(job, config, &RunDir::new("unused"), world, runtime)
}

/// Prepares images and an autoencoder trained for `steps`.
fn prepared(steps: u64, world: usize, runtime: &Runtime) -> (tempfile::TempDir, Config, Value) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), steps);
    runtime.block_on(write_images(folder.path()));
    let summary = run(autoencoder::run, &config, world, runtime).unwrap();
    (folder, config, summary)
}

#[test]
fn autoencoder_learns_and_any_number_of_workers_encodes_alike() {
    let runtime = Runtime::new().unwrap();
    let (_folder, mut config, summary) = prepared(200, 2, &runtime);
    let error = summary["reconstruction_mse"].as_f64().unwrap();
    assert!(error < 0.1, "the variance of the images is about 0.2, so this is no reconstruction: {summary}");

    let again = run(autoencoder::run, &config, 1, &runtime).unwrap();
    assert_eq!(again, summary, "a finished autoencoder is not trained again");

    let both = [1, 2].map(|world| {
        config.data.latents = format!("{}-{world}", config.data.latents);
        run(encode::run, &config, world, &runtime).unwrap()
    });
    assert_eq!(both[0]["train"], both[1]["train"]);
    assert_eq!(both[0]["validation"], both[1]["validation"]);

    let autoencoder = Autoencoder::load(&config.autoencoder, Device::Cpu, runtime.handle()).unwrap();
    assert!((autoencoder.scaling_factor - summary["scaling_factor"].as_f64().unwrap()).abs() < 1e-9);
    let dataset = Dataset::open(Store::open(&config.data.latents).unwrap().child("train"), 1 << 20);
    let dataset = runtime.block_on(dataset).unwrap();
    let read = |column| runtime.block_on(dataset.read_rows(column, &[21])).unwrap();
    assert_eq!((read("image"), read("mask")), scene(21), "images and masks are carried over");
    let stored = Tensor::from_data_size(&read("moments"), &[1, 8, 8, 8], Kind::Half).to_kind(Kind::Float);
    let image = Tensor::from_data_size(&scene(21).0, &[1, 16, 16, 3], Kind::Uint8);
    let expected = tch::no_grad(|| autoencoder.encode_moments(&crate::data::to_unit_range(&image)));
    assert!(stored.allclose(&expected, 1e-3, 1e-3, false), "row 21 holds the moments of image 21");
}

#[test]
fn encoded_images_are_carried_over_as_they_are() {
    let runtime = Runtime::new().unwrap();
    let (folder, mut config, _) = prepared(2, 1, &runtime);
    config.data.images = folder.path().join("encoded").display().to_string();
    config.data.image_format = ImageFormat::Jpeg;
    let schema = Schema { columns: vec![image_column(&config.data, "image", 16), label_column(&config.data, "mask", 16)] };
    runtime.block_on(async {
        for (split, rows) in ROWS {
            let store = Store::open(&config.data.images).unwrap().child(split);
            let writer = ShardWriter::open(store, schema.clone(), json!({"kind": "scenes"}), rows, rows).await.unwrap();
            let (images, masks): (Vec<_>, Vec<_>) = writer.shard_rows(0).map(scene).unzip();
            writer.write_shard(0, &encode_columns(&schema, [images.concat(), masks.concat()]).unwrap()).await.unwrap();
            writer.commit().await.unwrap();
        }
    });
    config.data.latents = folder.path().join("from-encoded").display().to_string();
    run(encode::run, &config, 2, &runtime).unwrap();
    let open = |url: &str| runtime.block_on(Dataset::open(Store::open(url).unwrap().child("train"), 1 << 20)).unwrap();
    let (images, latents) = (open(&config.data.images), open(&config.data.latents));
    let rows: Vec<u64> = (0..40).collect();
    for column in ["image", "mask"] {
        let [source, carried] = [&images, &latents].map(|dataset| runtime.block_on(dataset.read(column, &rows)).unwrap());
        assert!(matches!(source, OwnedRows::Encoded(_)) && source == carried, "{column}");
    }
    let mask = runtime.block_on(crate::data::read_tensor(&latents, "mask", &[21])).unwrap();
    assert_eq!(Vec::<u8>::try_from(mask.flatten(0, -1)).unwrap(), scene(21).1);
}

#[test]
fn mirrored_moments_are_those_of_the_mirrored_image_and_make_another_data_set() {
    let runtime = Runtime::new().unwrap();
    let (folder, mut config, _) = prepared(2, 1, &runtime);
    let plain = run(encode::run, &config, 1, &runtime).unwrap();
    config.data.flip = true;
    let error = run(encode::run, &config, 1, &runtime).unwrap_err().to_string();
    assert!(error.contains("already holds a complete data set with another schema"), "{error}");

    config.data.latents = folder.path().join("flipped").display().to_string();
    let flipped = run(encode::run, &config, 2, &runtime).unwrap();
    assert_ne!(flipped["train"]["fingerprint"], plain["train"]["fingerprint"]);
    assert_eq!(flipped["validation"], plain["validation"], "evaluation never mirrors");
    let dataset = Dataset::open(Store::open(&config.data.latents).unwrap().child("train"), 1 << 20);
    let stored = runtime.block_on(runtime.block_on(dataset).unwrap().read_rows("moments_flipped", &[21])).unwrap();
    let stored = Tensor::from_data_size(&stored, &[1, 8, 8, 8], Kind::Half).to_kind(Kind::Float);
    let mirrored = Tensor::from_data_size(&scene(21).0, &[1, 16, 16, 3], Kind::Uint8).flip([2]);
    let autoencoder = Autoencoder::load(&config.autoencoder, Device::Cpu, runtime.handle()).unwrap();
    let expected = tch::no_grad(|| autoencoder.encode_moments(&crate::data::to_unit_range(&mirrored)));
    assert!(stored.allclose(&expected, 1e-3, 1e-3, false), "row 21 holds the moments of the mirrored image 21");
}

#[test]
fn an_interrupted_encoding_goes_on_with_the_missing_shards() {
    let runtime = Runtime::new().unwrap();
    let (folder, mut config, _) = prepared(2, 1, &runtime);
    let whole = run(encode::run, &config, 1, &runtime).unwrap();

    config.data.latents = folder.path().join("resumed").display().to_string();
    let stopped = run(
        |context| {
            context.stop.request();
            encode::run(context)
        },
        &config,
        2,
        &runtime,
    );
    assert_eq!(stopped.unwrap(), json!({"stopped": true}));
    let error = runtime.block_on(Dataset::open(Store::open(&config.data.latents).unwrap().child("train"), 1 << 20)).err();
    assert!(error.is_some(), "without all shards there is no data set");
    assert_eq!(run(encode::run, &config, 2, &runtime).unwrap()["train"], whole["train"]);
}

#[test]
fn a_folder_with_another_autoencoder_is_left_alone() {
    let runtime = Runtime::new().unwrap();
    let (folder, mut config, _) = prepared(2, 1, &runtime);
    let weights = || std::fs::read(folder.path().join("autoencoder").join(crate::model::weights::WEIGHTS_FILE)).unwrap();
    let before = weights();
    config.autoencoder.train.steps += 1;
    let error = run(autoencoder::run, &config, 1, &runtime).unwrap_err().to_string();
    assert!(error.contains("already holds an autoencoder"), "{error}");
    assert!(weights() == before);

    config.autoencoder.block_channels = vec![8, 16];
    let error = run(encode::run, &config, 1, &runtime).unwrap_err().to_string();
    assert!(error.contains("misshapen"), "{error}");
    config.autoencoder.weights = folder.path().join("nowhere").display().to_string();
    let error = run(encode::run, &config, 1, &runtime).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("run the autoencoder job"), "{error}");
}
