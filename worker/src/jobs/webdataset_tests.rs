//! Tar files of samples, as others write them, to shards: what is there becomes columns, what fits is stored as it is, and samples that
//! are not like the first one are named.

use super::import_tests::{Bench, refused};
use crate::data::datasets::testing::{self, Content, SIDE, Scene};
use common::config::ImageFormat;
use common::shards::{DType, ORIGIN};
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use png::{BitDepth::Eight, ColorType};
use std::fs;

/// A sample of a square image that already has the right size.
fn sample(number: usize) -> Content {
    let scene = Scene(number);
    let size = (SIDE, SIDE);
    let mask = testing::png(size, ColorType::Grayscale, Eight, &scene.mask(size, 0));
    let embedding: Vec<u8> = [number as f32, 0.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let key = format!("images/{number:04}");
    vec![
        (format!("{key}.jpg"), jpeg(number)),
        (format!("{key}.seg.png"), mask),
        (format!("{key}.cls"), format!("{}\n", number % 3).into_bytes()),
        (format!("{key}.json"), format!("{{\"caption\": \"a room\", \"height\": {number}, \"score\": {number}.25}}").into_bytes()),
        (format!("{key}.embedding.npy"), testing::npy("<f4", "(2,)", &embedding)),
        (format!("{key}.txt"), b"a room".to_vec()),
    ]
}

fn jpeg(number: usize) -> Vec<u8> {
    let mut file = Vec::new();
    let pixels = Scene(number).pixels((SIDE, SIDE), 0);
    JpegEncoder::new_with_quality(&mut file, 60).write_image(&pixels, SIDE as u32, SIDE as u32, ExtendedColorType::Rgb8).unwrap();
    file
}

fn shard(numbers: std::ops::Range<usize>) -> Content {
    numbers.flat_map(sample).collect()
}

/// Two shards to train on and one for validation, packed by `pack`, their names ending in `ending`.
fn shards(ending: &str, pack: fn(&Content) -> Vec<u8>) -> Content {
    let part = |name: &str, numbers| (format!("{name}.{ending}"), pack(&shard(numbers)));
    vec![part("rooms-train-0000", 0..4), part("rooms-train-0001", 4..7), part("rooms-val-0000", 0..2)]
}

fn packed(tar: &Content) -> Vec<u8> {
    testing::gzip(&testing::tar(tar))
}

fn with_jpeg(source: &str, files: &Content) -> Bench {
    let mut bench = Bench::new("webdataset", source, "");
    testing::write(&bench.path("source"), files);
    bench.config.data.image_format = ImageFormat::Jpeg;
    bench
}

#[test]
fn what_samples_have_becomes_columns_and_files_that_fit_stay_as_they_are() {
    for (source, files) in [
        ("source", shards("tar", testing::tar)),
        ("source", shards("tar.gz", packed)),
        ("source/rooms-{train,val}-{0000..0001}.tar", [shards("tar", testing::tar), vec![part_of_nothing()]].concat()),
    ] {
        let bench = with_jpeg(source, &files);
        bench.run(2).unwrap();
        for (split, numbers) in [("train", 0..7), ("validation", 0..2)] {
            let rows = bench.split(split);
            assert_eq!(rows.dataset.rows(), numbers.len() as u64);
            for (row, number) in (0..).zip(numbers) {
                assert!(rows.stored("image", row) == jpeg(number), "image {row} of {split}");
                assert!(rows.stored("mask", row) == sample(number)[1].1, "mask {row} of {split}");
                assert_eq!(rows.bytes("label", row), (number as i64 % 3).to_le_bytes());
                assert_eq!(rows.bytes("height", row), (number as i64).to_le_bytes());
                assert_eq!(rows.bytes("score", row), (number as f32 + 0.25).to_le_bytes());
                assert_eq!(rows.bytes("embedding", row)[..4], (number as f32).to_le_bytes());
            }
            let columns = &rows.dataset.manifest().schema.columns;
            let names: Vec<_> = columns.iter().map(|column| (column.name.as_str(), column.dtype, &column.shape[..])).collect();
            let further = [("embedding", DType::F32, &[2][..]), ("height", DType::I64, &[]), ("label", DType::I64, &[])];
            assert_eq!(names[2..5], further, "{names:?}");
        }
    }
}

/// In the folder, and of no split that the pattern names.
fn part_of_nothing() -> (String, Vec<u8>) {
    ("rooms-val-0001.tar".into(), testing::tar(&Content::new()))
}

/// What does not have the size or the format is made to, as from any other layout.
#[test]
fn other_images_are_scaled() {
    let pixels = testing::npy("|u1", "(16, 24, 3)", &Scene(5).pixels(testing::SIZE, 0));
    let mask = testing::npy("|u1", "(16, 24)", &Scene(5).mask(testing::SIZE, 0));
    let sample = vec![("a.image.npy".to_owned(), pixels), ("a.mask.npy".to_owned(), mask)];
    let files = vec![("train/0.tar".to_owned(), testing::tar(&sample)), ("val/0.tar".to_owned(), testing::tar(&sample))];
    let bench = Bench::with("webdataset", &files, "");
    bench.run(1).unwrap();
    bench.split("validation").are(&[Scene(5)], true);
}

#[test]
fn samples_that_are_not_like_the_first_are_named() {
    let spoilt = |ending: &str, with: Option<&[u8]>| {
        let mut files = shard(0..4);
        let name = format!("images/0002.{ending}");
        files.retain(|file| with.is_some() || file.0 != name);
        files.iter_mut().filter(|file| file.0 == name).for_each(|file| file.1 = with.unwrap_or_default().to_vec());
        let shards = vec![("train.tar".to_owned(), testing::tar(&files)), ("val.tar".into(), testing::tar(&shard(0..1)))];
        Bench::with("webdataset", &shards, "").refusal()
    };
    refused(&spoilt("seg.png", None), &["train.tar: images/0002.jpg", "images/0002.seg.png is missing"]);
    refused(&spoilt("embedding.npy", None), &["train.tar: images/0002.jpg", "images/0002.embedding.npy is missing"]);
    let wider = testing::npy("<f4", "(3,)", &[0; 12]);
    let words = ["train.tar: images/0002.embedding.npy", "embedding is f32 [3], but f32 [2] in the first sample"];
    refused(&spoilt("embedding.npy", Some(&wider)), &words);
    refused(&spoilt("embedding.npy", Some(b"PK")), &["images/0002.embedding.npy", "no array of NumPy"]);
    refused(&spoilt("cls", Some(b"chair")), &["images/0002.cls", "\"chair\" is no class"]);
    refused(&spoilt("json", Some(b"{\"height\": 1}")), &["images/0002.json", "score is no number"]);
    refused(&spoilt("json", Some(b"{")), &["images/0002.json", "EOF"]);
    refused(&spoilt("jpg", Some(b"<html>")), &["images/0002.jpg", "neither PNG nor JPEG nor WebP"]);

    let bench = with_jpeg("source/rooms-train-{0000..0002}.tar", &shards("tar", testing::tar));
    refused(&bench.refusal(), &["rooms-train-0002.tar does not exist"]);
    let bench = Bench::new("webdataset", "cut.tar", "");
    let whole = testing::tar(&shard(0..4));
    fs::write(bench.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    refused(&bench.refusal(), &["cut.tar", "archive is truncated"]);
}

/// A sample whose image has the right size, with moments.
fn with_moments(number: usize) -> Content {
    let moments = testing::npy("<f2", "(8, 8, 8)", &[number as u8; 1024]);
    vec![(format!("{number}.png"), png_of(number, (SIDE, SIDE))), (format!("{number}.moments.npy"), moments)]
}

fn png_of(number: usize, size: (usize, usize)) -> Vec<u8> {
    testing::png(size, ColorType::Rgb, Eight, &Scene(number).pixels(size, 0))
}

/// Archives of two samples each, with what the data set that they come from says about itself.
fn exported(of: [&str; 3]) -> Content {
    let names = ["train/0.tar", "train/1.tar", "validation/0.tar"];
    let archive = |(at, (name, origin)): (usize, (&str, &str))| {
        let about = vec![(ORIGIN.to_owned(), origin.as_bytes().to_vec())];
        (name.to_owned(), testing::tar(&[about, with_moments(2 * at), with_moments(2 * at + 1)].concat()))
    };
    names.into_iter().zip(of).enumerate().map(archive).collect()
}

const ORIGIN_OF_ALL: &str =
    r#"{"kind": "scenes", "scaling_factor": 0.25, "split": "elsewhere", "categories": {"shape": ["cube"]}}"#;

#[test]
fn what_an_exported_data_set_says_about_itself_is_kept() {
    let bench = Bench::with("webdataset", &exported([ORIGIN_OF_ALL; 3]), "");
    bench.run(2).unwrap();
    for (split, rows) in [("train", 4), ("validation", 2)] {
        let found = bench.split(split);
        let manifest = found.dataset.manifest();
        assert_eq!((found.dataset.rows(), manifest.schema.columns.len()), (rows, 2), "{split}");
        let about = |field: &str| manifest.metadata[field].clone();
        assert_eq!((about("kind"), about("scaling_factor"), about("split")), ("scenes".into(), 0.25.into(), split.into()));
        assert_eq!(about("categories")["shape"][0], "cube");
    }
}

#[test]
fn moments_of_single_precision_are_stored_as_training_reads_them() {
    let wide = |number: usize| {
        let floats: Vec<u8> = [number as f32, 0.1, -1e9, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let picture = (format!("{number}.png"), png_of(number, (SIDE, SIDE)));
        vec![picture, (format!("{number}.moments.npy"), testing::npy("<f4", "(4, 1, 1)", &floats))]
    };
    let tars = vec![("train.tar".into(), testing::tar(&wide(3))), ("val.tar".into(), testing::tar(&wide(4)))];
    let bench = Bench::with("webdataset", &tars, "");
    bench.run(1).unwrap();
    let rows = bench.split("train");
    let column = &rows.dataset.manifest().schema.columns[1];
    assert_eq!((column.dtype, column.cold), (DType::F16, false));
    let halves = [0x4200_u16, 0x2e66, 0xfc00, 0];
    assert_eq!(rows.bytes("moments", 0), halves.map(u16::to_le_bytes).concat());
}

/// Only samples to train on come with the moments of the mirrored image; a split that is not read may have anything.
#[test]
fn each_split_has_the_columns_of_its_own_first_sample() {
    let flipped = |number: usize| vec![(format!("{number}.moments_flipped.npy"), testing::npy("<f2", "(8, 8, 8)", &[9; 1024]))];
    let train = [with_moments(0), flipped(0), with_moments(1), flipped(1)].concat();
    for (ending, pack) in [("tar", testing::tar as fn(&Content) -> Vec<u8>), ("tar.gz", packed)] {
        let file = |name: &str, content: &Content| (format!("{name}.{ending}"), pack(content));
        let files = vec![file("train", &train), file("val", &with_moments(2)), file("test", &vec![with_moments(3).swap_remove(0)])];
        let bench = Bench::with("webdataset", &files, "");
        bench.run(2).unwrap();
        assert_eq!(bench.split("train").bytes("moments_flipped", 1), [9; 1024]);
        let validation = bench.split("validation");
        assert_eq!((validation.dataset.rows(), validation.dataset.manifest().schema.columns.len()), (1, 2));
        assert_eq!(validation.bytes("moments", 0), [2; 1024]);
    }
}

#[test]
fn archives_that_do_not_belong_together_and_moments_of_other_images_are_named() {
    let refusal = |files: &Content, keys: &str| Bench::with("webdataset", files, keys).refusal();
    let other = ORIGIN_OF_ALL.replace("0.25", "0.5");
    let words = ["train/1.tar: __dataset__", "another scaling_factor than", "train/0.tar: __dataset__", "one by one"];
    refused(&refusal(&exported([ORIGIN_OF_ALL, &other, ORIGIN_OF_ALL]), ""), &words);
    let none = ORIGIN_OF_ALL.replace("0.25", "\"x\"");
    refused(&refusal(&exported([&none; 3]), ""), &["0.tar: __dataset__", "scaling_factor is \"x\"", "above 0"]);
    refused(&refusal(&exported(["words"; 3]), ""), &["0.tar: __dataset__", "expected value"]);

    let words = ["0.png", "its moments are of the whole image, 16 x 16 pixels", "data.resolution = 16 and import.crop = 0.5"];
    refused(&refusal(&exported([ORIGIN_OF_ALL; 3]), ", crop = 0.5"), &words);
    let mut wide = with_moments(0);
    wide[0].1 = png_of(0, (24, SIDE));
    let files = vec![("train.tar".into(), testing::tar(&wide)), ("val.tar".into(), testing::tar(&with_moments(1)))];
    refused(&refusal(&files, ""), &["train.tar: 0.png", "24 x 16 pixels", "import.crop = 1 "]);
}
