//! An experiment from nothing to its pictures, and again.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use crate::lab::Lab;
use crate::snapshot::snapshot;

const JOBS: [&str; 9] = ["scenes", "autoencoder", "encode", "train", "evaluate", "probe", "concepts", "compose", "edit"];

#[test]
fn nine_launches_lead_from_nothing_to_scores_and_pictures() {
    let lab = Lab::empty();
    for job in JOBS {
        lab.launch(&["--job", job]).expect_success();
    }
    let run = lab.run();
    scores_are_between_bounds(&fs::read_to_string(run.evaluation()).unwrap());
    labels_are_read_off_slots(&lab);
    images_are_edited(&lab);
    scenes_are_composed(&lab);
    let mut pictures = snapshot(&run.pictures());
    pictures.retain(|_, file| file.is_some());
    assert!(pictures.len() >= 9, "grids of evaluate, probe, concepts, compose and edit, and single images: {:?}", pictures.keys());
    for name in pictures.keys() {
        assert!(fs::read(run.pictures().join(name)).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"), "{name}");
    }
    assert_eq!(snapshot(&run.tensorboard()).len(), 1, "one event file of one start");
    for rank in 0..2 {
        assert!(run.log_file(1, rank).exists());
    }
    for job in ["scenes", "autoencoder", "encode"] {
        let before = newest_change(&lab.path().join("data"));
        lab.launch(&["--job", job]).expect_success();
        assert_eq!(newest_change(&lab.path().join("data")), before, "{job} did its work twice");
    }
}

/// Every label of the built-in data set was read.
fn labels_are_read_off_slots(lab: &Lab) {
    let report: Value = serde_json::from_str(&fs::read_to_string(lab.run().probes()).unwrap()).unwrap();
    let labels = report["labels"].as_array().unwrap();
    assert_eq!(labels.len(), 6, "{report}");
    for label in labels {
        let figure = if label["classes"].is_null() { "mse" } else { "accuracy" };
        for side in ["trained", "untrained", "constant"] {
            assert!(label[side][figure].as_f64().unwrap() >= 0.0, "{label}");
        }
    }
}

/// The slots of some images were shown; now one is removed, and one that does not exist is refused before anything starts.
fn images_are_edited(lab: &Lab) {
    let shown: Value = serde_json::from_str(&fs::read_to_string(lab.run().edits()).unwrap()).unwrap();
    assert!(lab.path().join(shown["slots_picture"].as_str().unwrap()).is_file(), "{shown}");
    let remove = |slot: usize| format!("edit.recipe=[{{ name = \"less\", image = 7, remove = [{slot}] }}]");
    lab.launch(&["--job", "edit", "--set", &remove(2)]).expect_success();
    assert!(lab.run().pictures().join("edits/less.png").is_file());
    lab.launch(&["--job", "edit", "--set", &remove(5)]).expect_refusal(&["edit.recipe[0].remove = 5", "from 1 to 4"]);
    let absent = "edit.recipe=[{ file = \"absent.png\", remove = [1] }]";
    lab.launch(&["--job", "edit", "--set", absent]).expect_refusal(&["edit.recipe[0]", "absent.png"]);
}

/// The library was made by its own job and stayed as it was; scenes come by choice, and what cannot be composed is refused before anything
/// starts.
fn scenes_are_composed(lab: &Lab) {
    let read = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let (library, before) = (lab.run().concepts().join("library.json"), newest_change(&lab.run().concepts()));
    assert_eq!(read(&library)["sizes"].as_array().unwrap().len(), 4);
    let composed = read(&lab.run().compositions());
    assert_eq!(composed["scenes"][1]["slots"].as_array().unwrap().len(), 4, "{composed}");
    let compose = |scene: &str| lab.launch(&["--job", "compose", "--set", &format!("compose.scene=[{{ {scene} }}]")]);
    compose("name = \"mine\", concepts = [1, 1], slots = [{ image = 7, slot = 2 }]").expect_success();
    assert!(lab.run().pictures().join("composed/mine.png").is_file());
    assert_eq!(newest_change(&lab.run().concepts()), before, "the library was made twice");
    compose("concepts = [5]").expect_refusal(&["compose.scene[0].concepts = 5", "from 1 to 4"]);
    compose("concepts = [1, 1, 1, 1, 1]").expect_refusal(&["compose.scene[0] = 5 slots", "from 1 to 4"]);
    compose("slots = [{ image = 8, slot = 1 }]").expect_refusal(&["compose.scene[0].slots: image = 8", "less than 8"]);
}

/// Trained and untrained model on the same scenes, every score a share of 1 (the adjusted Rand index may be a little below 0).
fn scores_are_between_bounds(text: &str) {
    let report: Value = serde_json::from_str(text).unwrap();
    for model in ["trained", "untrained"] {
        for score in ["fg_ari", "ari", "miou", "mbo"] {
            let value = report[model][score].as_f64().unwrap_or_else(|| panic!("no {score} of the {model} model in {text}"));
            assert!((-0.5..=1.0).contains(&value), "{model} {score} {value}");
        }
    }
}

fn newest_change(folder: &Path) -> Option<SystemTime> {
    snapshot(folder).keys().map(|name| fs::metadata(folder.join(name)).unwrap().modified().unwrap()).max()
}
