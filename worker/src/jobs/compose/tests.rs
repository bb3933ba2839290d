//! The library and the scenes on threads as workers: each is what it says, and none depends on how many share the work.

use super::run as compose;
use crate::concepts::Library;
use crate::data::LabelledImages;
use crate::inference::{Decoder, find_slots};
use crate::jobs::pictures_tests::{lab, run, run_dir};
use crate::jobs::{concepts, failure_kind, one_line};
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use common::config::{CheckpointConfig, ComposeConfig, Config};
use common::control::FailureKind;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

fn with_scenes(config: &Config, scenes: &str) -> Config {
    let compose: ComposeConfig = toml::from_str(&format!("scene = [{scenes}]")).unwrap();
    Config { compose: Some(compose), ..config.clone() }
}

/// Slots as the denoiser sees them, [K, out], of an image of a split, and the picture painted from all of them.
fn by_hand(config: &Config, split: &str, image: usize, runtime: &Runtime) -> (Tensor, Vec<u8>) {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(config.run.seed), Device::Cpu);
    let autoencoder = Autoencoder::load(&config.autoencoder, Device::Cpu, runtime.handle()).unwrap();
    let decoder = Decoder::new(config, autoencoder, Device::Cpu);
    let images = LabelledImages::open(runtime.handle(), &config.data, split).unwrap().images(&[image as u64]).unwrap();
    let found = find_slots(&model, Draws::new(config.run.seed), &images, image..image + 1, Device::Cpu).conditioning;
    let picture = decoder.decode(&model, &found, image..image + 1);
    (found.get(0), Vec::try_from(picture.flatten(0, -1).contiguous()).unwrap())
}

fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

fn tensor(file: &[u8], name: &str) -> Tensor {
    let view = SafeTensors::deserialize(file).unwrap();
    let view = view.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
    let kind = if view.dtype() == safetensors::Dtype::I64 { Kind::Int64 } else { Kind::Float };
    Tensor::from_data_size(view.data(), &shape, kind)
}

#[test]
fn any_number_of_workers_makes_one_library_once() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = lab(folder.path(), &runtime);
    let [alone, shared] = [1, 2].map(|world| {
        let made = run(concepts::run, &config, folder.path(), world, &runtime).unwrap();
        assert_eq!((&made["state"], &made["images"], &made["slots"]), (&"made".into(), &11.into(), &77.into()), "{made}");
        let path = run_dir(folder.path(), world).concepts();
        let file = fs::read(path.join("library.safetensors")).unwrap();
        assert_eq!(run(concepts::run, &config, folder.path(), world, &runtime).unwrap()["state"], "there already");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "something is left over");
        (file, Library::open(&path).unwrap().unwrap())
    });
    for name in ["image", "slot", "concept"] {
        assert_eq!(tensor(&alone.0, name), tensor(&shared.0, name), "{name}");
    }
    for name in ["centres", "distance", "slots", "conditioning"] {
        // Batches differ in size at the ends of shares, and with them the rounding of convolutions.
        assert!(tensor(&alone.0, name).allclose(&tensor(&shared.0, name), 1e-3, 1e-4, false), "{name}");
    }
    let (info, distances) = (&alone.1.info, tensor(&alone.0, "distance"));
    assert_eq!((info.sizes.len(), info.sizes.iter().sum::<u64>()), (7, 77));
    let inertia = distances.sum(Kind::Double).double_value(&[]);
    assert!((inertia / info.inertia - 1.0).abs() < 1e-4, "{inertia} and {}", info.inertia);
    // A member is the slot of its image, and its centre is the nearest.
    let member = alone.1.members(2)[0];
    let (by_hand, _) = by_hand(&config, "train", member.image as usize, &runtime);
    assert!(alone.1.conditioning(&[member]).unwrap().get(0).allclose(&by_hand.get(member.slot as i64), 1e-3, 1e-4, false));
    let slots = tensor(&alone.0, "slots");
    let nearest = Tensor::cdist(&slots, &tensor(&alone.0, "centres"), 2.0, None::<i64>).argmin(1, false);
    assert_eq!(nearest, tensor(&alone.0, "concept"));
}

#[test]
fn a_library_of_other_settings_or_a_damaged_one_is_made_anew() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = lab(folder.path(), &runtime);
    let state = |config: &Config| run(concepts::run, config, folder.path(), 1, &runtime).unwrap()["state"].clone();
    assert_eq!(state(&config), "made");
    config.concepts.count = Some(3);
    assert_eq!((state(&config), state(&config)), ("made".into(), "there already".into()));
    config.concepts.batch = 5;
    assert_eq!(state(&config), "made");
    let file = run_dir(folder.path(), 1).concepts().join("library.safetensors");
    fs::File::options().write(true).open(&file).unwrap().set_len(fs::metadata(&file).unwrap().len() - 4).unwrap();
    assert_eq!((state(&config), state(&config)), ("made".into(), "there already".into()));
    config.concepts.count = Some(78);
    let error = run(concepts::run, &config, folder.path(), 2, &runtime).unwrap_err();
    assert_eq!(failure_kind(&error), FailureKind::BadInput);
    assert!(one_line(&error).contains("77 slots in 11 images cannot be sorted into 78 concepts"), "{error}");
}

#[test]
fn every_scene_is_what_it_says_whatever_the_number_of_workers() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = lab(folder.path(), &runtime);
    let whole: Vec<String> = (1..=7).map(|slot| format!("{{ image = 4, slot = {slot} }}")).collect();
    let scenes = format!(
        "{{ seed = 9 }}, {{ name = 'again', seed = 9 }}, {{ concepts = [2, 2, 7] }}, {{ name = 'whole', seed = 4, slots = [{}] }}, \
         {{ slots = [{{ image = 0, slot = 3 }}], concepts = [1] }}",
        whole.join(", ")
    );
    let config = with_scenes(&config, &scenes);
    let [alone, shared] = [1, 2].map(|world| {
        run(compose, &config, folder.path(), world, &runtime).unwrap();
        let run = run_dir(folder.path(), world);
        let report = fs::read_to_string(run.compositions()).unwrap().replace(&format!("run-{world}"), "run");
        let picture = |name: &str| pixels(&run.pictures().join(format!("composed/{name}.png")));
        (report, ["00", "again", "02", "whole", "04"].map(picture))
    });
    assert_eq!(alone.0, shared.0);
    for (one, two) in alone.1.iter().zip(&shared.1) {
        assert!(one.iter().zip(two).all(|(a, b)| a.abs_diff(*b) <= 1), "pictures differ");
    }
    let [first, again, _, whole, _] = &alone.1;
    assert!(first == again, "the same seed gives another picture");
    let (_, expected) = by_hand(&config, "validation", 4, &runtime);
    assert!(whole.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1), "all slots of an image do not give that image");

    let report: Value = serde_json::from_str(&alone.0).unwrap();
    let library = Library::open(&run_dir(folder.path(), 1).concepts()).unwrap().unwrap();
    let made_of = |scene: usize| report["scenes"][scene]["slots"].as_array().unwrap().clone();
    for (scene, concepts) in [(0, vec![1, 2, 3, 4, 5, 6, 7]), (2, vec![2, 2, 7]), (4, vec![0, 1])] {
        assert_eq!(made_of(scene).iter().map(|slot| slot["concept"].as_u64().unwrap_or(0)).collect::<Vec<_>>(), concepts);
        for slot in made_of(scene).iter().filter(|slot| slot["concept"].is_u64()) {
            let members = library.members(slot["concept"].as_u64().unwrap() as usize - 1);
            assert!(members.iter().any(|member| member.index == slot["member"].as_u64().unwrap()), "{slot}");
        }
    }
    assert_eq!(made_of(4)[0], serde_json::json!({"image": 0, "slot": 3}));
    let error =
        run(compose, &with_scenes(&config, "{ slots = [{ image = 9, slot = 1 }] }"), folder.path(), 2, &runtime).unwrap_err();
    assert_eq!(failure_kind(&error), FailureKind::BadInput);
    assert!(one_line(&error).contains("compose.scene[0].slots: image = 9 is out of range: less than 9"), "{error}");
}

#[test]
fn without_a_checkpoint_nothing_is_made() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lab = lab(folder.path(), &runtime);
    let url = Some(folder.path().join("nothing-here").display().to_string());
    let nowhere = Config { checkpoint: CheckpointConfig { url, ..lab.checkpoint.clone() }, ..lab };
    for job in [compose, concepts::run] {
        let error = run(job, &nowhere, folder.path(), 1, &runtime).unwrap_err();
        assert_eq!(failure_kind(&error), FailureKind::BadInput, "{}", one_line(&error));
        assert!(!run_dir(folder.path(), 1).concepts().exists());
    }
}
