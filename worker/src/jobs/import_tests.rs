//! Published layouts to shards, on threads as workers: pixels, masks, labels and splits are those that were published, whatever the
//! archive and the number of workers; bad input is refused in one line and leaves nothing behind.

use super::crew::run_job;
use super::{JobContext, import};
use crate::data::datasets::testing::{self, Content, FRAMES, MASKS_SIZE, SIDE, SIZE, Scene};
use crate::jobs::{failure_kind, one_line};
use common::config::{Config, load};
use common::control::FailureKind;
use common::run_dir::RunDir;
use common::shards::{Dataset, OwnedRows};
use common::storage::Store;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tokio::runtime::Runtime;

/// The first column of the centred square.
const LEFT: usize = (SIZE.0 - SIDE) / 2;

/// A folder with a data set in it, and what came out of importing it.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    pub(super) config: Config,
    runtime: Runtime,
}

impl Bench {
    /// `source` is relative to the folder; `keys` are more of `[import]`.
    pub(super) fn new(layout: &str, source: &str, keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let overrides = [
            format!("data.images=\"{}\"", place("images")),
            format!("data.resolution={SIDE}"),
            "data.rows_per_shard=3".into(),
            "autoencoder.block_channels=[8, 8]".into(),
            "autoencoder.norm_groups=4".into(),
            format!("import={{ layout = \"{layout}\", source = \"{}\"{keys} }}", place(source)),
        ];
        let config = load::from_str(include_str!("../../../configs/quickstart.toml"), "quickstart.toml", &overrides).unwrap();
        Self { folder, config, runtime: Runtime::new().unwrap() }
    }

    /// With a data set in the folder `source`.
    pub(super) fn with(layout: &str, files: &Content, keys: &str) -> Self {
        let bench = Self::new(layout, "source", keys);
        testing::write(&bench.path("source"), files);
        bench
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn run(&self, world: usize) -> anyhow::Result<Value> {
        self.run_as(import::run, world)
    }

    fn run_as(&self, job: fn(&mut JobContext) -> anyhow::Result<Value>, world: usize) -> anyhow::Result<Value> {
        run_job(job, &self.config, &RunDir::new("unused"), world, &self.runtime)
    }

    /// The line in which the import is refused as bad input. No file may be there afterwards.
    pub(super) fn refusal(&self) -> String {
        let error = self.run(1).unwrap_err();
        let line = one_line(&error);
        assert_eq!(failure_kind(&error), FailureKind::BadInput, "{line}");
        assert_eq!(self.files("images"), [] as [String; 0], "left behind after: {line}");
        line
    }

    /// The files below a folder.
    fn files(&self, folder: &str) -> Vec<String> {
        let store = Store::open(self.path(folder).to_str().unwrap()).unwrap();
        self.runtime.block_on(store.list("")).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    pub(super) fn split(&self, split: &str) -> Rows<'_> {
        let store = Store::open(&self.config.data.images).unwrap().child(split);
        Rows { dataset: self.runtime.block_on(Dataset::open(store, 1 << 24)).unwrap(), runtime: &self.runtime }
    }
}

/// A split that was imported.
pub(super) struct Rows<'r> {
    pub(super) dataset: Dataset,
    runtime: &'r Runtime,
}

impl Rows<'_> {
    pub(super) fn bytes(&self, column: &str, row: u64) -> Vec<u8> {
        self.runtime.block_on(self.dataset.read_rows(column, &[row])).unwrap().to_vec()
    }

    /// A row of an encoded column, as it is stored.
    pub(super) fn stored(&self, column: &str, row: u64) -> Vec<u8> {
        let OwnedRows::Encoded(mut rows) = self.runtime.block_on(self.dataset.read(column, &[row])).unwrap() else {
            panic!("{column}")
        };
        rows.swap_remove(0)
    }

    /// The figures of the first objects of a row; the rest has to be filled up with `filler`.
    fn floats(&self, column: &str, row: u64, count: usize) -> Vec<f32> {
        let figures: Vec<f32> =
            self.bytes(column, row).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let rest_is_empty = |figure: &f32| figure.is_nan() || (column == "visibility" && *figure == 0.0);
        assert!(figures[count..].iter().all(rest_is_empty), "{column} of row {row}: {figures:?}");
        figures[..count].to_vec()
    }

    fn codes(&self, column: &str, row: u64, count: usize) -> Vec<i64> {
        let codes: Vec<i64> =
            self.bytes(column, row).chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert!(codes[count..].iter().all(|code| *code == -1), "{column} of row {row}: {codes:?}");
        codes[..count].to_vec()
    }

    /// Row after row, the image is that of each scene, and the mask if there are masks.
    pub(super) fn are(&self, scenes: &[Scene], masks: bool) {
        assert_eq!(self.dataset.rows(), scenes.len() as u64);
        for (row, scene) in (0..).zip(scenes) {
            assert!(self.bytes("image", row) == scene.pixels((SIDE, SIDE), LEFT), "image {row}");
            assert!(!masks || self.bytes("mask", row) == scene.mask((SIDE, SIDE), LEFT), "mask {row}");
        }
        assert_eq!(self.dataset.manifest().schema.column("mask").is_some(), masks);
    }

    fn category(&self, label: &str, code: i64) -> Value {
        self.dataset.manifest().metadata["categories"][label][code as usize].clone()
    }
}

fn scenes(numbers: impl IntoIterator<Item = usize>) -> Vec<Scene> {
    numbers.into_iter().map(Scene).collect()
}

fn per_object<T>(scene: Scene, figure: impl Fn(usize) -> T) -> Vec<T> {
    (0..scene.objects()).map(figure).collect()
}

#[test]
fn clevr_keeps_images_objects_and_splits() {
    let bench = Bench::with("clevr", &testing::clevr(7, 2), "");
    bench.run(2).unwrap();
    let train = bench.split("train");
    train.are(&scenes(0..7), false);
    bench.split("validation").are(&scenes([100, 101]), false);
    for (row, scene) in (0..).zip(scenes(0..7)) {
        let count = scene.objects();
        let colours = train.codes("color", row, count).into_iter().map(|code| train.category("color", code));
        assert_eq!(colours.collect::<Vec<_>>(), per_object(scene, |k| json!(["gray", "red"][k % 2])));
        assert_eq!(train.codes("material", row, count), per_object(scene, |k| 1 - k as i64 % 2));
        assert_eq!(train.category("shape", train.codes("shape", row, count)[0]), "cylinder");
        assert_eq!(train.category("size", train.codes("size", row, count)[0]), "small");
        assert_eq!(train.floats("y", row, count), per_object(scene, |k| scene.position(k)[1]));
        assert_eq!(train.floats("rotation", row, count), per_object(scene, |k| scene.rotation(k)));
        assert_eq!(train.floats("pixel_coords", row, 3 * count)[..3], [9.0, 0.0, scene.0 as f32]);
    }
}

#[test]
fn clevr_with_masks_is_taken_from_the_stream_of_records() {
    let mut bench = Bench::new("clevr-masks", "clevr_with_masks_train.tfrecords", ", train = 5, validation = 2");
    bench.config.data.resolution = MASKS_SIZE.1;
    fs::write(bench.path("clevr_with_masks_train.tfrecords"), testing::clevr_masks(8)).unwrap();
    bench.run(2).unwrap();
    for (split, numbers) in [("train", 0..5), ("validation", 5..7)] {
        let rows = bench.split(split);
        assert_eq!(rows.dataset.rows(), numbers.len() as u64);
        let left = (MASKS_SIZE.0 - MASKS_SIZE.1) / 2;
        for (row, scene) in (0..).zip(scenes(numbers)) {
            let count = scene.objects();
            assert!(rows.bytes("image", row) == scene.pixels((MASKS_SIZE.1, MASKS_SIZE.1), left), "image {row} of {split}");
            let mask = testing::enlarged_mask(scene, left..left + MASKS_SIZE.1);
            assert!(rows.bytes("mask", row) == mask, "mask {row} of {split}");
            assert_eq!(rows.floats("visibility", row, count), vec![1.0; count]);
            // Entity 0 is the background.
            assert_eq!(rows.codes("color", row, count), per_object(scene, |k| k as i64 + 1));
            assert_eq!(rows.floats("z", row, count), per_object(scene, |k| (scene.0 * 1000 + k + 1) as f32));
            assert_eq!(rows.floats("pixel_coords", row, 3 * count)[0], (scene.0 * 1000 + 3) as f32);
        }
    }
}

#[test]
fn clevrtex_keeps_the_indices_of_masks_and_the_authors_splits() {
    let bench = Bench::with("clevrtex", &testing::clevrtex(20), "");
    bench.run(3).unwrap();
    let train = bench.split("train");
    train.are(&scenes(4..20), true);
    bench.split("validation").are(&scenes([2, 3]), true);
    for (row, scene) in (0..).zip(scenes(4..20)) {
        let count = scene.objects();
        // The first object is outside of the centred square.
        let expected = per_object(scene, |k| if k == 0 { 0.0 } else { scene.area(k) as f32 });
        assert_eq!(train.floats("visibility", row, count), expected);
        assert_eq!(train.codes("material", row, count), per_object(scene, |k| -(k as i64 % 2)), "the second name is unknown");
        assert_eq!(train.floats("x", row, count), per_object(scene, |k| scene.position(k)[0]));
        assert_eq!(train.floats("rotation", row, count), per_object(scene, |k| scene.rotation(k)), "in the order of instances");
    }
}

/// Checks a split of MOVi against its videos, of which every `stride`-th frame was taken.
fn is_movi(rows: &Rows<'_>, videos: &[usize], stride: usize) {
    let frames: Vec<(usize, usize)> =
        videos.iter().flat_map(|&video| (0..FRAMES).step_by(stride).map(move |frame| (video, frame))).collect();
    rows.are(&frames.iter().map(|&(video, frame)| testing::frame(video, frame)).collect::<Vec<_>>(), true);
    for (row, (video, frame)) in (0..).zip(frames) {
        let scene = testing::frame(video, frame);
        let count = scene.objects();
        let seen = |k: usize| if k == 0 { 0.0 } else { testing::visibility(video, k, frame) as f32 };
        assert_eq!(rows.floats("visibility", row, count), per_object(scene, seen));
        assert_eq!(rows.codes("category", row, count), per_object(scene, |k| 3 + k as i64));
        assert_eq!(rows.category("category", 14), "Shoe");
        assert_eq!(rows.codes("is_dynamic", row, count), per_object(scene, |k| k as i64 % 2));
        assert_eq!(rows.floats("scale", row, count), per_object(scene, |k| 0.75 + k as f32));
        let positions = per_object(scene, |k| testing::image_position(k, frame)).concat();
        assert_eq!(rows.floats("image_positions", row, 2 * count), positions);
        let corners = per_object(scene, |k| (0..24).map(|w| (1000 * k + 100 * frame + w) as f32).collect::<Vec<_>>()).concat();
        assert_eq!(rows.floats("bboxes_3d", row, 24 * count), corners);
        assert_eq!(rows.floats("quaternions", row, 4 * count)[..2], [10.0 * frame as f32, 10.0 * frame as f32 + 1.0]);
    }
}

#[test]
fn movi_from_records_and_from_the_official_dump_are_the_same_rows() {
    let (train, validation) = ([vec![0, 1], vec![2]], [vec![7, 8]]);
    let records = Bench::with("movi", &testing::movi(&train, &validation), "");
    records.run(2).unwrap();
    let dump = Bench::with("movi-dump", &testing::movi_dump(&[0, 1, 2], &[7, 8]), "");
    dump.run(3).unwrap();
    for bench in [&records, &dump] {
        is_movi(&bench.split("train"), &[0, 1, 2], 1);
        is_movi(&bench.split("validation"), &[7, 8], 1);
    }
    let columns = |bench: &Bench| bench.split("train").dataset.manifest().schema.clone();
    assert_eq!(columns(&records), columns(&dump));
}

#[test]
fn frames_can_be_left_out_and_whole_videos_held_out() {
    let bench = Bench::with("movi", &testing::movi(&[vec![0, 1], vec![2]], &[vec![7]]), ", frame_stride = 3, train = 2");
    bench.run(1).unwrap();
    is_movi(&bench.split("train"), &[0, 1], 3);

    let dump = Bench::with("movi-dump", &testing::movi_dump(&[0, 1], &[7]), ", frame_stride = 3");
    dump.run(1).unwrap();
    is_movi(&dump.split("train"), &[0, 1], 3);

    let dump = Bench::with("movi-dump", &testing::movi_dump(&[0, 1, 2, 3, 4, 5, 6, 7], &[9]), ", validation_share = 0.4");
    dump.run(1).unwrap();
    let counts = ["train", "validation"].map(|split| dump.split(split).dataset.rows() as usize);
    assert_eq!(counts[0] + counts[1], 8 * FRAMES, "of the published training split");
    assert!(counts.iter().all(|count| *count > 0 && count % FRAMES == 0), "{counts:?}");
}

#[test]
fn images_without_masks_are_split_by_number_by_folder_or_by_share() {
    let ffhq = Bench::with("ffhq", &testing::ffhq(&[3, 60_000, 12, 1_999, 60_001]), "");
    ffhq.run(1).unwrap();
    ffhq.split("train").are(&scenes([3, 12, 1_999]), false);
    ffhq.split("validation").are(&scenes([60_000, 60_001]), false);

    let images: Content = testing::ffhq(&(0..40).collect::<Vec<_>>());
    let named = |folder: &str, range: std::ops::Range<usize>| {
        images[range].iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes.clone())).collect::<Content>()
    };
    let folders = [named("train", 0..3), named("val", 3..5), named("test", 5..6)].concat();
    let bench = Bench::with("images", &folders, "");
    bench.run(1).unwrap();
    bench.split("train").are(&scenes(0..3), false);
    bench.split("validation").are(&scenes(3..5), false);

    let bench = Bench::with("images", &images, ", validation_share = 0.3");
    bench.run(1).unwrap();
    let rows = ["train", "validation"].map(|split| bench.split(split).dataset.rows());
    assert_eq!(rows[0] + rows[1], 40);
    assert!((4..22).contains(&rows[1]), "{rows:?}");
}

/// Every way to hand a data set over gives the same shards.
#[test]
fn archives_are_read_as_they_lie() {
    let files = testing::clevrtex(20);
    let folder = Bench::with("clevrtex", &files, "");
    let expected = folder.run(1).unwrap();
    let packed = |name: &str, bytes: Vec<u8>| {
        let bench = Bench::new("clevrtex", name, "");
        fs::write(bench.path(name), bytes).unwrap();
        bench
    };
    for bench in [packed("full.zip", testing::zip(&files)), packed("full.tar", testing::tar(&files))] {
        let summary = bench.run(2).unwrap();
        assert_eq!(summary["train"]["fingerprint"], expected["train"]["fingerprint"]);
        assert_eq!(summary["validation"]["fingerprint"], expected["validation"]["fingerprint"]);
    }

    // A gzipped tar archive keeps its own order: here in five parts, or one that was cut in two.
    let parts = Bench::new("clevrtex", "parts", "");
    for (i, part) in files.chunks(16).enumerate() {
        testing::write(&parts.path("parts"), &vec![(format!("part{i}.tar.gz"), testing::gzip(&testing::tar(&part.to_vec())))]);
    }
    let cut = Bench::new("clevrtex", "cut", "");
    let whole = testing::gzip(&testing::tar(&files));
    let (begin, end) = whole.split_at(whole.len() / 2);
    testing::write(&cut.path("cut"), &vec![("a.tar.gz".into(), begin.to_vec()), ("b.tar.gz".into(), end.to_vec())]);
    for bench in [&parts, &cut] {
        let summary = bench.run(2).unwrap();
        assert_eq!(summary["train"]["fingerprint"], expected["train"]["fingerprint"]);
    }
}

/// Packed in any order, samples come in the order in which they are complete, each of them once and with its own mask.
fn is_a_permutation(bench: &Bench, first: usize, count: usize) {
    let rows = bench.split("train");
    let mut found: Vec<usize> = (0..rows.dataset.rows())
        .map(|row| {
            // Every object's x.
            let x = rows.bytes("x", row);
            let scene = Scene(f32::from_le_bytes(x[..4].try_into().unwrap()) as usize);
            assert!(rows.bytes("image", row) == scene.pixels((SIDE, SIDE), LEFT), "image {row} is of scene {}", scene.0);
            assert!(rows.bytes("mask", row) == scene.mask((SIDE, SIDE), LEFT), "mask {row} is of scene {}", scene.0);
            scene.0
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, (first..first + count).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The bytes do not depend on how many workers there are, whether files can be reached at will or only in passing.
    #[test]
    fn any_number_of_workers_writes_the_same(
        world in 1..5usize, order in Just(testing::clevrtex(15)).prop_shuffle(), rows_per_shard in 1..6usize,
    ) {
        let mut bench = Bench::new("clevrtex", "full.tar.gz", "");
        fs::write(bench.path("full.tar.gz"), testing::gzip(&testing::tar(&order))).unwrap();
        bench.config.data.rows_per_shard = rows_per_shard;
        let alone = bench.run(1).unwrap();
        is_a_permutation(&bench, 3, 12);
        bench.config.data.images = bench.path("again").display().to_string();
        let together = bench.run(world).unwrap();
        prop_assert_eq!(&alone["train"]["fingerprint"], &together["train"]["fingerprint"]);
        prop_assert_eq!(&alone["validation"]["fingerprint"], &together["validation"]["fingerprint"]);
    }
}

#[test]
fn an_interrupted_import_goes_on_and_a_finished_one_is_not_repeated() {
    let mut bench = Bench::with("clevrtex", &testing::clevrtex(20), "");
    let whole = bench.run(1).unwrap();
    assert_eq!(bench.run(2).unwrap()["train"]["state"], "there already");

    bench.config.data.images = bench.path("stopped").display().to_string();
    let stopping = |context: &mut JobContext| {
        context.stop.request();
        import::run(context)
    };
    assert_eq!(bench.run_as(stopping, 2).unwrap(), json!({"stopped": true}));
    assert_eq!(bench.run(2).unwrap()["train"]["fingerprint"], whole["train"]["fingerprint"]);

    // Another data set does not pass for this one.
    bench.config.import.as_mut().unwrap().train = Some(3);
    let error = one_line(&bench.run(1).unwrap_err());
    assert!(error.contains("already holds a complete data set with another number of rows"), "{error}");
}

/// Replaces the content of the first file whose name ends like that.
fn replace(files: &mut Content, ending: &str, with: impl FnOnce(&[u8]) -> Vec<u8>) {
    let (_, bytes) = files.iter_mut().find(|(name, _)| name.ends_with(ending)).unwrap();
    *bytes = with(bytes);
}

fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() * 2 / 3].to_vec()
}

pub(super) fn refused(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is not named in: {line}");
    }
    assert!(!line.contains(|letter: char| letter.is_control() || letter == char::REPLACEMENT_CHARACTER), "{line:?}");
}

#[test]
fn damaged_archives_are_named() {
    let files = testing::clevrtex(20);
    let (zip, tar) = (testing::zip(&files), testing::tar(&files));
    let cases = [
        ("cut.zip", cut(&zip), "archive is truncated"),
        ("cut.tar", cut(&tar), "archive is truncated"),
        ("cut.tar.gz", cut(&testing::gzip(&tar)), "archive is truncated"),
        (
            "garbled.tar.gz",
            testing::gzip(&[&tar[..], &[0x0b, 0x8a, 0x1b, 0x0a].repeat(128)].concat()),
            "archive is truncated, damaged",
        ),
        ("foreign.tar.gz", b"<html>404 not found</html>".to_vec(), "archive is truncated, damaged or of another kind"),
        ("foreign.tar", vec![b'x'; 2048], "archive is truncated, damaged or of another kind"),
        ("foreign.zip", b"<html>404 not found</html>".to_vec(), "archive is truncated, damaged or of another kind"),
    ];
    for (name, bytes, words) in cases {
        let bench = Bench::new("clevrtex", name, "");
        fs::write(bench.path(name), bytes).unwrap();
        refused(&bench.refusal(), &[name, words]);
    }
}

#[test]
fn damaged_records_are_named_with_their_offset() {
    let file = "movi_e-train.tfrecord-00000-of-00001";
    let damage = |with: fn(&[u8]) -> Vec<u8>| {
        let mut files = testing::movi(&[vec![0, 1]], &[vec![7]]);
        replace(&mut files, file, with);
        Bench::with("movi", &files, "").refusal()
    };
    refused(&damage(cut), &[file, "at offset", "ends within a record"]);
    refused(&damage(|_| b"not a record, but long enough for one".to_vec()), &[file, "at offset 0", "checksum"]);
    let flip = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[1000] ^= 1;
        bytes
    };
    refused(&damage(flip), &[file, "at offset 0", "the content of the record has another checksum"]);
    refused(&damage(|_| testing::tfrecords(&[b"no example".to_vec()])), &[file, "record 0", "tf.train.Example"]);
    let other = |_: &[u8]| testing::tfrecords(&[testing::example(&[("picture", testing::Feature::Integers(vec![1]))])]);
    refused(&damage(other), &[file, "record 0", "feature video is missing"]);

    let masks = Bench::new("clevr-masks", "masks.tfrecords", ", train = 5, validation = 2");
    fs::write(masks.path("masks.tfrecords"), testing::clevr_masks(3)).unwrap();
    refused(&masks.refusal(), &["masks.tfrecords", "ends after 3 records", "7", "import.train"]);
    fs::write(masks.path("masks.tfrecords"), cut(&testing::clevr_masks(3))).unwrap();
    refused(&masks.refusal(), &["masks.tfrecords", "at offset"]);
}

#[test]
fn images_masks_and_labels_that_do_not_fit_are_named() {
    use png::{BitDepth::Eight, ColorType};
    let spoilt = |ending: &str, with: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut files = testing::clevrtex(20);
        replace(&mut files, ending, with);
        Bench::with("clevrtex", &files, "").refusal()
    };
    let image = "CLEVRTEX_full_000004.png";
    refused(&spoilt(image, &|_| b"GIF89a and no png".to_vec()), &[image, "neither PNG nor JPEG nor WebP"]);
    refused(&spoilt(image, &cut), &[image, "not a readable image"]);
    let mask = "CLEVRTEX_full_000004_flat.png";
    let smaller = png(8, 4, ColorType::Grayscale);
    refused(&spoilt(mask, &|_| smaller.clone()), &[mask, "8 x 4", "24 x 16"]);
    let colours = png(SIZE.0, SIZE.1, ColorType::Rgb);
    refused(&spoilt(mask, &|_| colours.clone()), &[mask, "one byte per pixel"]);
    let crowd = testing::png(SIZE, ColorType::Grayscale, Eight, &[200; SIZE.0 * SIZE.1]);
    refused(&spoilt(mask, &|_| crowd.clone()), &[image, "instance 200"]);
    let labels = "CLEVRTEX_full_000004.json";
    refused(&spoilt(labels, &cut), &[labels, "unusable labels"]);
    refused(&spoilt(labels, &|_| b"{\"objects\": []}".to_vec()), &[image, "0 objects"]);

    // With several workers and shards that were finished before it was met, too.
    let mut files = testing::clevrtex(20);
    replace(&mut files, "CLEVRTEX_full_000017.png", cut);
    let bench = Bench::with("clevrtex", &files, "");
    let error = bench.run(2).unwrap_err();
    assert_eq!((failure_kind(&error), bench.files("images")), (FailureKind::BadInput, Vec::new()), "{}", one_line(&error));

    let few = Bench::with("clevrtex", &testing::clevrtex(20), ", max_objects = 2");
    refused(&few.refusal(), &["3 objects", "import.max_objects"]);
}

fn png(width: usize, height: usize, colour: png::ColorType) -> Vec<u8> {
    testing::png((width, height), colour, png::BitDepth::Eight, &vec![0; width * height * colour.samples()])
}

#[test]
fn missing_files_and_empty_or_mixed_sources_are_named() {
    let empty = |layout: &str| Bench::with(layout, &vec![("readme.txt".into(), b"nothing".to_vec())], "").refusal();
    for layout in ["clevr", "clevr-masks", "clevrtex", "movi", "movi-dump", "ffhq", "images", "webdataset"] {
        refused(&empty(layout), &["source", "nothing to import", "import.layout"]);
    }
    refused(&Bench::new("clevrtex", "nowhere", "").refusal(), &["import.source", "nowhere", "does not exist"]);

    let without = |mut files: Content, ending: &str, layout: &str| {
        files.retain(|(name, _)| !name.ends_with(ending));
        Bench::with(layout, &files, "").refusal()
    };
    let line = without(testing::clevrtex(20), "000007_flat.png", "clevrtex");
    refused(&line, &["CLEVRTEX_full_000007.png", "CLEVRTEX_full_000007_flat.png is missing"]);
    let line = without(testing::movi_dump(&[0], &[1]), "00000001_instances.json", "movi-dump");
    refused(&line, &["00000001_image.png", "00000001_instances.json is missing"]);
    refused(&without(testing::clevr(3, 1), "val_scenes.json", "clevr"), &["CLEVR_val_scenes.json is missing"]);
    refused(&without(testing::movi(&[vec![0]], &[vec![1]]), "validation.tfrecord-00000-of-00001", "movi"), &["validation"]);

    let again = testing::clevrtex(2).into_iter().map(|(name, bytes)| (format!("copy/{name}"), bytes));
    let twice = testing::clevrtex(20).into_iter().chain(again).collect();
    refused(&Bench::with("clevrtex", &twice, "").refusal(), &["holds both", "copy/clevrtex_full/0/CLEVRTEX_full_000000.png"]);
}

#[test]
fn without_a_table_there_is_nothing_to_import() {
    let mut bench = Bench::new("images", "source", "");
    bench.config.import = None;
    refused(&bench.refusal(), &["[import]"]);
    assert!(Path::new(&bench.config.data.images).parent().unwrap().exists());
}
