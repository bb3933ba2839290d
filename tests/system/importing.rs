//! A folder of pictures becomes a data set, by the real binaries; bad ones are refused and leave nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::run_dir::RunDir;
use common::shards::{Dataset, ORIGIN, OwnedRows};
use common::storage::Store;

use crate::lab::{Lab, PATIENCE, binary};
use crate::object_server::{ObjectServer, READING, UNKNOWING};
use crate::processes::Running;
use crate::records::{final_weights, wait_for};
use crate::snapshot::snapshot;
use crate::torture::seed;

/// The pictures of this repository's documentation.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

pub const IMPORT: [&str; 4] = ["--job", "import", "--set", "import={ layout = \"images\", source = \"pictures\" }"];

/// A lab with some pictures in folders for the two splits.
pub fn with_pictures() -> Lab {
    let lab = Lab::empty();
    for (folder, count) in [("train", 20), ("validation", 3)] {
        let folder = lab.path().join("pictures").join(folder);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..count {
            let picture = ["scenes.png", "found.png"][i % 2];
            fs::copy(Path::new(DOCS).join(picture), folder.join(format!("{i:02}.png"))).unwrap();
        }
    }
    lab
}

#[test]
fn pictures_are_imported_once_and_can_be_learned_from() {
    let lab = with_pictures();
    lab.launch(&IMPORT).expect_success();
    let imported = snapshot(&lab.path().join("data/images"));
    assert_eq!(imported.keys().filter(|name| name.ends_with("dataset.json")).count(), 2, "{:?}", imported.keys());
    lab.launch(&IMPORT).expect_success();
    assert_eq!(snapshot(&lab.path().join("data/images")), imported, "a finished import was repeated");
    for job in ["autoencoder", "encode"] {
        lab.launch(&["--job", job]).expect_success();
    }
    let short = ["--set", "train.steps=2"];
    lab.launch(&short).expect_success();
    let nothing_to_read = ["data/latents/validation", "nothing is said about the objects"];
    lab.launch(&[&["--job", "probe"], &short[..]].concat()).expect_refusal(&nothing_to_read);
}

#[test]
fn what_cannot_be_imported_is_refused_and_leaves_nothing_behind() {
    let lab = with_pictures();
    let images = lab.path().join("data/images");
    lab.launch(&["--job", "import"]).expect_refusal(&["[import]"]);
    let absent = "import={ layout = \"images\", source = \"absent\" }";
    lab.launch(&["--job", "import", "--set", absent]).expect_refusal(&["import.source", "absent"]);
    assert!(!lab.path().join("runs").exists(), "known before anything is started");

    fs::create_dir(lab.path().join("empty")).unwrap();
    for (layout, source, words) in [
        ("images", "empty", "nothing to import"),
        ("webdataset", "empty", "nothing to import"),
        ("webdataset", "page.tar", "the archive is truncated, damaged or of another kind"),
        ("webdataset", "pictures/{a,b}.tar", "a.tar does not exist"),
    ] {
        fs::write(lab.path().join("page.tar"), "<html>404</html>".repeat(100)).unwrap();
        let import = format!("import={{ layout = \"{layout}\", source = \"{source}\" }}");
        lab.launch(&["--job", "import", "--set", &import]).expect_refusal(&[source.split('/').next().unwrap(), words]);
        assert!(!images.exists(), "{layout} of {source}");
    }

    // The last one, so that a shard is finished before.
    let picture = lab.path().join("pictures/train/19.png");
    let bytes = fs::read(&picture).unwrap();
    fs::write(&picture, &bytes[..bytes.len() / 2]).unwrap();
    lab.launch(&IMPORT).expect_refusal(&["pictures/train/19.png", "not a readable image"]);
    assert!(snapshot(&images).is_empty(), "{:?}", snapshot(&images).keys());
    fs::write(&picture, bytes).unwrap();
    lab.launch(&IMPORT).expect_success();
}

/// Whatever is exported comes back as it was, row by row: raw, and with pictures that would lose by being encoded again and mirrored ones
/// to train on. What is learned from it is the same.
#[test]
fn what_was_exported_to_tar_files_comes_back_byte_by_byte() {
    for keys in [["data.image_format=raw", "data.flip=false"], ["data.image_format=jpeg", "data.flip=true"]] {
        let lab = Lab::empty();
        let format = keys[0];
        let launch = |more: &[&str]| lab.launch(&[&["--set", keys[0], "--set", keys[1]], more].concat());
        for job in ["scenes", "autoencoder", "encode"] {
            launch(&["--job", job]).expect_success();
        }
        let export = ["shards", "export", "data/latents", "--format", "webdataset", "--to", "tars"];
        lab.start(&export).wait(PATIENCE).expect_success();
        let source = "import={ layout = \"webdataset\", source = \"tars\" }";
        launch(&["--job", "import", "--set", "data.images=back", "--set", source]).expect_success();
        for split in ["train", "validation"] {
            let open = |folder: &str| {
                let store = Store::open(lab.path().join(folder).to_str().unwrap()).unwrap().child(split);
                wait_for(Dataset::open(store, 0)).unwrap()
            };
            let (original, back) = (open("data/latents"), open("back"));
            let rows: Vec<u64> = (0..original.rows()).collect();
            assert_eq!(back.rows(), original.rows());
            assert_eq!(back.manifest().schema.columns.len(), original.manifest().schema.columns.len());
            for column in &original.manifest().schema.columns {
                assert_eq!(back.manifest().schema.column(&column.name), Some(column));
                let [one, other] = [&original, &back].map(|dataset| wait_for(dataset.read(&column.name, &rows)).unwrap());
                assert!(same(&one, &other), "{} of {split} with {format}", column.name);
            }
        }
        // Moments that came along do not stand in the way of new ones.
        launch(&["--job", "encode", "--set", "data.images=back", "--set", "data.latents=again"]).expect_success();
        let moments = |folder: &str| {
            let store = Store::open(lab.path().join(folder).to_str().unwrap()).unwrap().child("train");
            wait_for(wait_for(Dataset::open(store, 0)).unwrap().read_rows("moments", &[0, 17, 63])).unwrap()
        };
        assert_eq!(moments("again"), moments("back"));
        launch(&["--set", "train.steps=3"]).expect_success();
        launch(&["--set", "train.steps=3", "--set", "data.latents=back", "--set", "run.name=back"]).expect_success();
        assert_eq!(final_weights(&RunDir::new(lab.path().join("runs/back")), 3), final_weights(&lab.run(), 3));
    }
}

/// Tar files of others have moments and do not say how they are scaled.
#[test]
fn moments_of_unknown_scale_are_refused_until_it_is_known() {
    let lab = Lab::prepared();
    let export = ["shards", "export", "data/latents", "--format", "webdataset", "--to", "tars"];
    lab.start(&export).wait(PATIENCE).expect_success();
    for file in snapshot(&lab.path().join("tars")).keys().filter(|name| name.ends_with(".tar")) {
        let path = lab.path().join("tars").join(file);
        let bytes = fs::read(&path).unwrap();
        // The first file says it: a record with the name, and the content in another.
        assert!(bytes.starts_with(ORIGIN.as_bytes()) && bytes.len() > 1024);
        fs::write(&path, &bytes[1024..]).unwrap();
    }
    let import = "import={ layout = \"webdataset\", source = \"tars\" }";
    lab.launch(&["--job", "import", "--set", "data.images=back", "--set", import]).expect_success();
    let train = ["--set", "data.latents=back", "--set", "train.steps=2"];
    lab.launch(&train).expect_refusal(&["back/train", "scaling factor", "set autoencoder.scaling_factor"]);
    assert!(!lab.run().path().join("run.toml").exists(), "known before anything is started");
    lab.launch(&[&train[..], &["--set", "autoencoder.scaling_factor=0.7"]].concat()).expect_success();
}

/// From a bucket to a bucket that refuses, hangs up, keeps silent, loses answers, cuts them short and lets them hang: the same shards.
#[test]
fn buckets_that_misbehave_change_nothing_in_what_is_imported() {
    let lab = Lab::prepared();
    let export = ["shards", "export", "data/latents", "--format", "webdataset", "--to", "tars"];
    lab.start(&export).wait(PATIENCE).expect_success();
    let local = "import={ layout = \"webdataset\", source = \"tars\" }";
    lab.launch(&["--job", "import", "--set", "data.images=back", "--set", local]).expect_success();

    let server = ObjectServer::start(UNKNOWING, 4, seed());
    server.fill("tars", &lab.path().join("tars"));
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml", "--job", "import", "--set", "data.images=s3://bucket/back"]);
    command.args(["--set", "import={ layout = \"webdataset\", source = \"s3://bucket/tars\" }"]).current_dir(lab.path());
    command.args(["--set", "run.name=bucket"]);
    server.introduce(&mut command);
    Running::start_piped(command).wait(PATIENCE).expect_success();
    let faults = server.faults();
    println!("{faults:?}");
    assert!(faults.len() > 2, "{faults:?}");
    let written = server.objects();
    let written = written.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("back/")?.to_owned(), blake3::hash(bytes))));
    let files = snapshot(&lab.path().join("back")).into_iter().filter_map(|(name, digest)| Some((name, digest?)));
    assert_eq!(written.collect::<BTreeMap<_, _>>(), files.collect());
}

/// Small members are passed over together, large ones are left where they are.
#[test]
fn tar_files_in_a_bucket_are_indexed_in_few_requests_of_few_bytes() {
    let lab = Lab::empty();
    let server = ObjectServer::start(READING, u32::MAX, 0);
    server.behave();
    let tars = lab.path().join("tars");
    fs::create_dir(&tars).unwrap();
    let picture = fs::read(Path::new(DOCS).join("found.png")).unwrap();
    for (name, members, bytes) in [("train.tar", 400, 40 << 10), ("val.tar", 8, 4 << 20)] {
        let folder = lab.path().join(name.replace('.', "-"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.png"), &picture).unwrap();
        for member in 0..members {
            fs::write(folder.join(format!("notes-{member:04}.txt")), vec![b'x'; bytes]).unwrap();
        }
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg("-cf").arg(tars.join(name)).arg(".");
        Running::start_piped(tar).wait(PATIENCE).expect_success();
    }
    server.fill("tars", &tars);
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml", "--job", "import"]).current_dir(lab.path());
    command.args(["--set", "import={ layout = \"webdataset\", source = \"s3://bucket/tars\" }"]);
    server.introduce(&mut command);
    Running::start_piped(command).wait(PATIENCE).expect_success();
    let (small, large) = (server.traffic("tars/train.tar"), server.traffic("tars/val.tar"));
    println!("{small:?} {large:?}");
    // By each of two workers: windows of 64 KiB to 8 MiB through 16 MiB, the end mark, and the picture by one of them.
    assert!(small.requests <= 2 * 11 + 2, "{small:?}");
    assert!(large.requests <= 2 * 11 + 2 && large.bytes < 4 << 20, "{large:?}");
}

fn same(one: &OwnedRows, other: &OwnedRows) -> bool {
    match (one, other) {
        (OwnedRows::Fixed(one), OwnedRows::Fixed(other)) => one == other,
        (OwnedRows::Encoded(one), OwnedRows::Encoded(other)) => one == other,
        _ => false,
    }
}
