//! Bad input is refused in one line that names the thing, with exit code 2, and nothing changes on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, PATIENCE, binary};
use crate::snapshot::snapshot;

/// The launch is refused with each of `words` in its one line, and the folder is as it was.
fn refused(lab: &Lab, arguments: &[&str], words: &[&str]) {
    let before = snapshot(lab.path());
    lab.launch(arguments).expect_refusal(words);
    assert_eq!(snapshot(lab.path()), before, "{arguments:?} changed something on disk");
}

/// The files below `folder` whose names end in `ending`, in order.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let found = snapshot(folder).into_keys().filter(|name| name.ends_with(ending));
    found.map(|name| folder.join(name)).collect()
}

#[test]
fn a_mistyped_key_is_answered_with_the_nearest_valid_one() {
    let lab = Lab::empty();
    refused(&lab, &["--set", "train.stepz=5"], &["train.stepz", "did you mean train.steps?"]);
    let config = lab.path().join("tiny.toml");
    let text = fs::read_to_string(&config).unwrap();
    let line = 1 + text.lines().position(|line| line == "steps = 40").unwrap();
    fs::write(&config, text.replace("\nsteps = 40\n", "\nstepz = 40\n")).unwrap();
    refused(&lab, &[], &["train.stepz", &format!("tiny.toml:{line}"), "did you mean train.steps?"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    let lab = Lab::empty();
    refused(&lab, &["--set", "train.global_batch=1"], &["train.global_batch = 1", "each of the 2 workers"]);
    refused(&lab, &["--set", "train.steps=many"], &["train.steps", "\"many\"", "a whole number"]);
    refused(&lab, &["--job", "scenes", "--set", "scenes.max_objects=200"], &["scenes.max_objects = 200", "to 10"]);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let lab = Lab::empty();
    let before = snapshot(lab.path());
    lab.start(&["launch", "--config", "absent.toml"]).wait(PATIENCE).expect_refusal(&["absent.toml"]);
    lab.start(&["launch", "--resume", "runs/absent"]).wait(PATIENCE).expect_refusal(&["runs/absent"]);
    assert_eq!(snapshot(lab.path()), before);
}

#[test]
fn a_missing_data_set_is_named() {
    let lab = Lab::empty();
    refused(&lab, &[], &["data/latents"]);
    refused(&lab, &["--job", "encode"], &["data/images"]);
    refused(&lab, &["--job", "autoencoder"], &["data/images"]);
}

#[test]
fn a_half_written_data_set_is_named_and_can_be_finished() {
    let lab = Lab::empty();
    let scenes = ["--job", "scenes", "--set", "scenes.train=4000"];
    let mut launch = lab.start_launch(&scenes);
    let images = lab.path().join("data/images/train");
    launch.wait_until("the first shard", PATIENCE, || fs::read_dir(&images).ok()?.flatten().find(is_entry));
    launch.kill_all();
    refused(&lab, &["--job", "encode"], &["data/images/train", "half-written"]);
    lab.launch(&scenes).expect_success();
}

/// Whether this is the record of one finished shard in a data set that is being written.
fn is_entry(file: &fs::DirEntry) -> bool {
    file.file_name().to_string_lossy().ends_with(".entry.json")
}

#[test]
fn a_truncated_manifest_is_named() {
    let lab = Lab::prepared();
    let manifest = lab.path().join("data/latents/train/dataset.json");
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    refused(&lab, &[], &["data/latents/train/dataset.json"]);
}

#[test]
fn a_place_below_a_file_is_named_and_not_tried_again() {
    let lab = Lab::prepared();
    fs::write(lab.path().join("taken"), "").unwrap();
    for job in ["scenes", "encode"] {
        let keys = ["--job", job, "--set", "data.images=taken/images", "--set", "data.latents=taken/latents"];
        // Images to encode are there.
        let keys = if job == "encode" { [&keys[..], &["--set", "data.images=data/images"]].concat() } else { keys.to_vec() };
        lab.launch(&keys).expect_refusal(&["taken/", "Not a directory"]);
    }
}

#[test]
fn a_data_set_smaller_than_one_global_batch_is_refused() {
    let lab = Lab::prepared();
    refused(&lab, &["--set", "train.global_batch=66"], &["train.global_batch", "66", "64"]);
}

#[test]
fn a_flipped_byte_in_a_shard_is_found_and_named() {
    let lab = Lab::prepared();
    let data = lab.path().join("data");
    let shard = files(&data.join("latents/train"), ".safetensors").swap_remove(0);
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x10;
    fs::write(&shard, bytes).unwrap();
    let before = snapshot(&data);
    let name = shard.file_name().unwrap().to_str().unwrap();
    lab.launch(&[]).expect_refusal(&[name]);
    assert_eq!(snapshot(&data), before, "the data set was touched");
    assert!(files(&lab.path().join("runs"), ".safetensors").is_empty(), "a checkpoint was written");
}

#[test]
fn a_folder_that_holds_a_different_run_is_refused() {
    let lab = Lab::prepared();
    lab.launch(&["--set", "train.steps=2"]).expect_success();
    refused(&lab, &["--set", "train.steps=2", "--set", "run.seed=8"], &["runs/tiny"]);
    let stranger = Lab::prepared();
    fs::create_dir_all(stranger.run().path()).unwrap();
    fs::write(stranger.run().path().join("thesis.txt"), "not a run").unwrap();
    refused(&stranger, &[], &["runs/tiny"]);
}

#[test]
fn a_worker_that_cannot_find_libtorch_is_told_apart_from_a_failed_run() {
    let lab = Lab::prepared();
    let place = lab.path().join("bin");
    fs::create_dir(&place).unwrap();
    fs::copy(binary("orchestrator"), place.join("orchestrator")).unwrap();
    let worker = place.join("worker");
    fs::write(&worker, without_run_path(fs::read(binary("worker")).unwrap())).unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    let before = snapshot(lab.path());
    let launch = lab.start_program(&place.join("orchestrator"), &["launch", "--config", "tiny.toml"]);
    launch.wait(PATIENCE).expect_refusal(&["libtorch", worker.to_str().unwrap()]);
    assert_eq!(snapshot(lab.path()), before);
}

/// The worker with every mention of the folder of libtorch misspelt, as when the virtual environment has moved.
fn without_run_path(mut binary: Vec<u8>) -> Vec<u8> {
    let (folder, misspelt) = (b"/torch/lib", b"/t0rch/lib");
    let places: Vec<usize> = (0..binary.len() - folder.len()).filter(|at| binary[*at..].starts_with(folder)).collect();
    assert!(!places.is_empty(), "the worker has no path to libtorch");
    for at in places {
        binary[at..at + misspelt.len()].copy_from_slice(misspelt);
    }
    binary
}
