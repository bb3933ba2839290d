//! A folder of pictures becomes a data set, by the real binaries; bad ones are refused and leave nothing behind.

use std::fs;
use std::path::Path;

use common::shards::{Dataset, OwnedRows};
use common::storage::Store;

use crate::lab::{Lab, PATIENCE};
use crate::records::wait_for;
use crate::snapshot::snapshot;

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

/// Whatever is exported comes back as it was, row by row: raw, and with pictures that would lose by being encoded again.
#[test]
fn what_was_exported_to_tar_files_comes_back_byte_by_byte() {
    for format in ["raw", "jpeg"] {
        let lab = Lab::empty();
        let format = format!("data.image_format={format}");
        for job in ["scenes", "autoencoder", "encode"] {
            lab.launch(&["--job", job, "--set", &format]).expect_success();
        }
        let export = ["shards", "export", "data/latents", "--format", "webdataset", "--to", "tars"];
        lab.start(&export).wait(PATIENCE).expect_success();
        let source = "import={ layout = \"webdataset\", source = \"tars\" }";
        lab.launch(&["--job", "import", "--set", &format, "--set", "data.images=back", "--set", source]).expect_success();
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
    }
}

fn same(one: &OwnedRows, other: &OwnedRows) -> bool {
    match (one, other) {
        (OwnedRows::Fixed(one), OwnedRows::Fixed(other)) => one == other,
        (OwnedRows::Encoded(one), OwnedRows::Encoded(other)) => one == other,
        _ => false,
    }
}
