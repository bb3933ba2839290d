//! Edits on threads as workers: each is what it says, and none depends on how many share the work.

use super::run as edit;
use crate::data::LabelledImages;
use crate::inference::{Decoder, find_slots};
use crate::jobs::pictures_tests::{lab, run, run_dir};
use crate::jobs::{failure_kind, one_line};
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use common::config::{Config, EditConfig};
use common::control::FailureKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::{Device, Tensor};
use tokio::runtime::Runtime;

fn with_recipes(config: &Config, recipes: &str) -> Config {
    let edit: EditConfig = toml::from_str(&format!("recipe = [{recipes}]")).unwrap();
    Config { edit: Some(edit), ..config.clone() }
}

/// The first image of the validation split as a file.
fn write_first_image(config: &Config, file: &Path, runtime: &Runtime) {
    let image = LabelledImages::open(runtime.handle(), &config.data, "validation").unwrap().images(&[0]).unwrap();
    image::RgbImage::from_raw(32, 32, Vec::try_from(image.flatten(0, -1)).unwrap()).unwrap().save(file).unwrap();
}

/// The slots of image 0 without the third, painted by hand.
fn without_the_third(config: &Config, runtime: &Runtime) -> Vec<u8> {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(config.run.seed), Device::Cpu);
    let autoencoder = Autoencoder::load(&config.autoencoder, Device::Cpu, runtime.handle()).unwrap();
    let decoder = Decoder::new(config, autoencoder, Device::Cpu);
    let images = LabelledImages::open(runtime.handle(), &config.data, "validation").unwrap().images(&[0]).unwrap();
    let found = find_slots(&model, Draws::new(config.run.seed), &images, 0..1, Device::Cpu).conditioning;
    let others = Tensor::cat(&[found.narrow(1, 0, 2), found.narrow(1, 3, 4)], 1);
    Vec::try_from(decoder.decode(&model, &others, 0..1).flatten(0, -1).contiguous()).unwrap()
}

fn pixels(png: &[u8]) -> Vec<u8> {
    image::load_from_memory(png).unwrap().into_rgb8().into_raw()
}

#[test]
fn every_edit_is_what_it_says_whatever_the_number_of_workers() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("first.png");
    let config = lab(folder.path(), &runtime);
    write_first_image(&config, &file, &runtime);
    let recipes = format!(
        "{{ name = 'less', image = 0, remove = [3] }}, {{ name = 'file', file = '{}', remove = [3] }}, \
         {{ name = 'replace', image = 1, replace = {{ slot = 2, with = {{ image = 4, slot = 5 }} }} }}, \
         {{ name = 'swap', image = 1, swap = {{ slot = 2, with = {{ image = 4, slot = 5 }} }} }}, \
         {{ name = 'ground', image = 1, background = {{ image = 4 }} }}, \
         {{ name = 'steps', image = 1, interpolate = {{ slot = 2, with = {{ image = 4, slot = 5 }}, steps = 3 }} }}, {{ image = 7 }}",
        file.display()
    );
    let config = with_recipes(&config, &recipes);
    let [alone, shared] = [1, 2].map(|world| {
        run(edit, &config, folder.path(), world, &runtime).unwrap();
        let run = run_dir(folder.path(), world);
        let report = fs::read_to_string(run.edits()).unwrap().replace(&format!("run-{world}"), "run");
        let read = |name: &str| (name.to_owned(), fs::read(run.pictures().join(name)).unwrap());
        let names = ["less", "file", "replace", "swap-1", "swap-2", "ground", "steps-1", "steps-2", "steps-3"];
        let names = names.map(|name| format!("edits/{name}.png")).into_iter();
        let files = names.chain(["edit.png".into(), "slots.png".into()]).map(|name| read(&name)).collect::<BTreeMap<_, _>>();
        (report, files)
    });
    assert_eq!(alone.0, shared.0);
    assert!(alone.1 == shared.1, "pictures differ");

    let picture = |name: &str| pixels(&alone.1[&format!("edits/{name}.png")]);
    assert!(picture("less") == without_the_third(&config, &runtime), "not the picture of the other slots");
    assert!(picture("file") == picture("less"), "the same image as a file is another one");
    assert!(picture("swap-1") == picture("replace"), "the first half of a swap is no replacement");
    assert!(picture("steps-3") == picture("replace"), "the end of the interpolation is not the other slot");
    let report: Value = serde_json::from_str(&alone.0).unwrap();
    let edits = report["edits"].as_array().unwrap();
    let change = |edit: usize, step: usize| {
        let picture = &edits[edit]["pictures"][step];
        ["change_inside", "change_outside"].map(|part| picture[part].as_f64().unwrap())
    };
    assert_eq!(change(6, 0), [0.0, 0.0], "the interpolation does not begin at the repainted image");
    for (edit, step) in [(0, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1)] {
        assert!(change(edit, step).iter().sum::<f64>() > 0.0, "{} changes nothing", edits[edit]["name"]);
    }
    grounds_are_the_largest_slots(&edits[5], &edits[4], &edits[2]);
    // Titles and tiles: 7 edits of 6 and at most 3 tiles; one image with its 7 slots.
    let size = |name: &str| image::load_from_memory(&alone.1[name]).map(|grid| (grid.width() / 128, grid.height() / 128)).unwrap();
    assert_eq!((size("edit.png"), size("slots.png")), ((9, 7), (10, 1)));
}

/// The slots that `ground` has exchanged, by the shares of pixels of its image (as in `own`) and of the other image (as in `other`).
fn grounds_are_the_largest_slots(ground: &Value, other: &Value, own: &Value) {
    for (edit, slot) in [(own, "slot"), (other, "with_slot")] {
        let pixels: Vec<f64> = serde_json::from_value(edit["pixels_of_slots"].clone()).unwrap();
        assert!((pixels.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{pixels:?}");
        let chosen = ground["edit"][slot].as_u64().unwrap() as usize - 1;
        assert!(pixels.iter().all(|share| *share <= pixels[chosen]), "{slot} {chosen} of {pixels:?}");
    }
}

#[test]
fn without_recipes_the_first_images_are_shown_with_their_slots() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = lab(folder.path(), &runtime);
    let summary = run(edit, &config, folder.path(), 2, &runtime).unwrap();
    assert!(summary.get("picture").is_none() && summary["slots_picture"].is_string(), "{summary}");
    let grid = image::open(summary["slots_picture"].as_str().unwrap()).unwrap();
    assert_eq!((grid.width() / 128, grid.height() / 128), (10, 3));
}

#[test]
fn what_cannot_be_edited_is_named_in_one_line_by_every_worker() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = lab(folder.path(), &runtime);
    let [small, text] = ["small.png", "text.png"].map(|name| folder.path().join(name));
    image::RgbImage::new(16, 32).save(&small).unwrap();
    fs::write(&text, "not a picture").unwrap();
    for (recipe, words) in [
        (format!("{{ file = '{}', remove = [1] }}", small.display()), vec!["edit.recipe[0]", "small.png", "16x32", "32x32"]),
        (format!("{{ file = '{}', remove = [1] }}", text.display()), vec!["edit.recipe[0]", "text.png", "not a readable image"]),
        ("{ file = 'absent.png', remove = [1] }".into(), vec!["edit.recipe[0]", "absent.png", "No such file"]),
        ("{ image = 0, remove = [8] }".into(), vec!["edit.recipe[0].remove = 8", "from 1 to 7"]),
        ("{ image = 9 }".into(), vec!["edit.recipe[0]: image = 9", "less than 9", "validation"]),
    ] {
        let error = run(edit, &with_recipes(&config, &recipe), folder.path(), 2, &runtime).unwrap_err();
        let line = one_line(&error);
        assert_eq!(failure_kind(&error), FailureKind::BadInput, "{line}");
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
        assert!(!run_dir(folder.path(), 2).pictures().exists(), "{line}");
    }
}

#[test]
fn weights_of_another_architecture_are_refused_in_one_line() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = lab(folder.path(), &runtime);
    config.model.slot_attention.mlp_hidden += 1;
    let error = run(edit, &config, folder.path(), 2, &runtime).unwrap_err();
    assert_eq!(failure_kind(&error), FailureKind::BadInput, "{}", one_line(&error));
    for words in ["not those of the configured network", "mlp.0.weight [128, 8] instead of [129, 8]"] {
        assert!(one_line(&error).contains(words), "{}", one_line(&error));
    }
}
