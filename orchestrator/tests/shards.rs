//! `orchestrator shards` on a small data set whose images are encoded.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use common::shards::{Column, DType, Encoding, ORIGIN, OwnedRows, Schema, ShardWriter};
use common::storage::Store;
use serde_json::{Value, json};

/// Bytes of image `row`; what they mean is nobody's business here.
fn image(row: u64) -> Vec<u8> {
    (0..100 + row).map(|index| (index * 7 + row) as u8).collect()
}

/// f16 [4, 2, 2]: mean `row + 1` (0 for the mirrored image), log-variance -2.
fn moments(row: u64, flipped: bool) -> Vec<u8> {
    let mean = if flipped { 0.0 } else { (row + 1) as f32 };
    (0..16).flat_map(|index| half::f16::from_f32(if index < 8 { mean } else { -2.0 }).to_le_bytes()).collect()
}

/// Five rows in two shards, in `train/`.
fn data_set(folder: &Path) {
    let schema = Schema {
        columns: vec![
            Column::hot("moments", DType::F16, &[4, 2, 2]),
            Column::hot("moments_flipped", DType::F16, &[4, 2, 2]),
            Column::cold("image", DType::U8, &[16, 16, 3]).encoded(Some(Encoding::Jpeg { quality: 90 })),
        ],
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let store = Store::open(folder.to_str().unwrap()).unwrap().child("train");
        let writer = ShardWriter::open(store, schema, json!({"kind": "test"}), 5, 3).await.unwrap();
        for index in 0..2 {
            let rows: Vec<u64> = writer.shard_rows(index).collect();
            let fixed = |flipped| OwnedRows::Fixed(rows.iter().flat_map(|&row| moments(row, flipped)).collect());
            let images = OwnedRows::Encoded(rows.iter().map(|&row| image(row)).collect());
            writer.write_shard(index, &[fixed(false), fixed(true), images]).await.unwrap();
        }
        writer.commit().await.unwrap();
    });
}

/// Two rows in `validation/`, without what is mirrored.
fn plain_data_set(folder: &Path) {
    let schema = Schema { columns: vec![Column::hot("moments", DType::F16, &[4, 2, 2])] };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let store = Store::open(folder.to_str().unwrap()).unwrap().child("validation");
        let writer = ShardWriter::open(store, schema, json!({"kind": "test"}), 2, 3).await.unwrap();
        writer.write_shard(0, &[[moments(0, false), moments(1, false)].concat()]).await.unwrap();
        writer.commit().await.unwrap();
    });
}

fn shards(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchestrator")).arg("shards").args(arguments).output().unwrap()
}

fn answer(arguments: &[&str]) -> Value {
    let output = shards(&[arguments, &["--json"]].concat());
    assert!(output.status.code().unwrap() < 2, "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn inspect_and_stats_tell_columns_sizes_and_figures() {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    let url = folder.path().to_str().unwrap();
    let found = &answer(&["inspect", url])["data_sets"][0];
    assert_eq!((&found["rows"], &found["shards"], &found["version"]), (&json!(5), &json!(2), &json!(2)));
    let image = &found["columns"][2];
    assert_eq!(image["encoding"], json!({"jpeg": {"quality": 90}}));
    assert_eq!(image["bytes"], json!(5 * 100 + 10 + 8 * (4 + 3)), "bytes and offsets of both shards");
    let text = String::from_utf8(shards(&["inspect", url]).stdout).unwrap();
    assert!(text.contains("5 rows in 2 shards of 3") && text.contains("jpeg of quality 90"), "{text}");

    let columns = &answer(&["stats", url])["data_sets"][0]["columns"];
    assert_eq!(columns[0]["figures"], json!({"count": 80, "mean": 0.5, "minimum": -2.0, "maximum": 5.0, "not_finite": 0}));
    assert_eq!((&columns[2]["of"], &columns[2]["figures"]["mean"]), (&json!("row-bytes"), &json!(102.0)));
    let error = String::from_utf8(shards(&["inspect", &format!("{url}/nowhere")]).stderr).unwrap();
    assert!(error.contains("no complete data set here"), "{error}");
}

#[test]
fn verify_names_the_damaged_block_and_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    data_set(folder.path());
    let url = folder.path().to_str().unwrap();
    let whole = answer(&["verify", url]);
    assert_eq!((&whole["files"], &whole["not_whole"]), (&json!(4), &json!([])));
    let files = || std::fs::read_dir(folder.path().join("train")).unwrap().map(|entry| entry.unwrap().path());
    let second =
        files().find(|path| path.to_str().unwrap().contains("/00001-") && path.to_str().unwrap().contains("cold")).unwrap();
    let mut bytes = std::fs::read(&second).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&second, bytes).unwrap();
    let output = shards(&["verify", url]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("damaged: block 0 of image.bytes at offset 4120 (rows 3 to 4)") && text.contains("1 not whole"),
        "{text}"
    );
    std::fs::remove_file(&second).unwrap();
    assert_eq!(answer(&["verify", url])["not_whole"][0]["found"], json!({"verdict": "missing"}));
}

#[test]
fn exports_hold_the_same_bytes_under_the_names_of_others() {
    let folder = tempfile::tempdir().unwrap();
    data_set(&folder.path().join("data"));
    let (url, to) = (folder.path().join("data"), folder.path().join("dit"));
    let (url, to) = (url.to_str().unwrap(), to.to_str().unwrap());
    assert_eq!(answer(&["export", url, "--format", "lightningdit", "--to", to])["files"], 2);
    let bytes = std::fs::read(format!("{to}/train/latents_rank00_shard001.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let latents = tensors.tensor("latents").unwrap();
    assert_eq!((latents.dtype(), latents.shape()), (safetensors::Dtype::F32, &[2, 2, 2, 2][..]));
    assert_eq!(latents.data(), [4.0_f32, 5.0].map(|mean| mean.to_le_bytes().repeat(8)).concat());
    assert!(tensors.tensor("latents_flip").unwrap().data().iter().all(|byte| *byte == 0));
    assert_eq!(tensors.tensor("labels").unwrap().shape(), [2]);
    assert_eq!(shards(&["export", url, "--format", "webdataset", "--to", to]).status.code(), Some(2), "the place is taken");

    // Beside a split whose images were never mirrored, and one that is all there is.
    plain_data_set(&folder.path().join("data"));
    let both = folder.path().join("both");
    let answered = answer(&["export", url, "--format", "lightningdit", "--to", both.to_str().unwrap()]);
    assert_eq!((&answered["files"], &answered["left_out"]), (&json!(2), &json!([format!("{url}/validation")])));
    let alone = shards(&[
        "export",
        &format!("{url}/validation"),
        "--format",
        "lightningdit",
        "--to",
        folder.path().join("no").to_str().unwrap(),
    ]);
    let error = String::from_utf8(alone.stderr).unwrap();
    assert!(alone.status.code() == Some(2) && error.contains("no column moments_flipped"), "{error}");
    std::fs::remove_dir_all(folder.path().join("data/validation")).unwrap();

    let tar = folder.path().join("tar");
    answer(&["export", url, "--format", "webdataset", "--to", tar.to_str().unwrap()]);
    // What the system's tar takes out is what was put in.
    let unpacked = folder.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    for name in ["00000.tar", "00001.tar"] {
        let status = Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(tar.join("train").join(name)).status().unwrap();
        assert!(status.success());
    }
    for row in 0..5 {
        assert!(std::fs::read(unpacked.join(format!("{row:010}.image.jpg"))).unwrap() == image(row));
        let array = std::fs::read(unpacked.join(format!("{row:010}.moments.npy"))).unwrap();
        assert!(array.len() == 128 + 32 && array.ends_with(&moments(row, false)));
        let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (4, 2, 2,), }";
        assert!(array[10..].starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(&array[..128]));
    }
    // Three files of each row, and what the data set says about itself.
    assert_eq!(std::fs::read_dir(&unpacked).unwrap().count(), 16);
    let origin: Value = serde_json::from_slice(&std::fs::read(unpacked.join(ORIGIN)).unwrap()).unwrap();
    assert_eq!(origin, json!({"kind": "test"}));
}
