//! Comparison with other implementations, where they are installed (`make peers`); the scripts in `tests/peers/` do the work.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, PATIENCE};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The Python of the virtual environment, if it has what `make peers` installs; else says that `test` is skipped.
fn python(test: &str) -> Option<PathBuf> {
    python_with("diffusers", test)
}

/// The same with another module.
fn python_with(module: &str, test: &str) -> Option<PathBuf> {
    let python = Path::new(HERE).join("../.venv/bin/python");
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    // Past the capture of test output, for the summary of `make test`.
    let line = format!("skipped peers::{test}: {module} is not installed (make peers)\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// Runs a script of `tests/peers/`: whether it found both sides equal, and what it said.
fn compare(python: &Path, script: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(python).arg(Path::new(HERE).join("peers").join(script)).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn networks_and_gradients_are_those_of_diffusers_blocks() {
    let Some(python) = python("networks_and_gradients_are_those_of_diffusers_blocks") else { return };
    let mut said = String::new();
    // Where rounding puts the input of a ReLU on the other side of zero, gradients part ways: that is up to the seed and the processor.
    // Networks that differ do so with every seed.
    let agree = ["1", "2", "3"].iter().any(|seed| {
        let (equal, output) = compare(&python, "parity.py", &["--seed", seed]);
        said += &output;
        equal
    });
    assert!(agree, "{said}");
}

#[test]
fn samplers_and_schedules_are_those_of_diffusers() {
    let Some(python) = python("samplers_and_schedules_are_those_of_diffusers") else { return };
    let (equal, said) = compare(&python, "samplers.py", &[]);
    assert!(equal, "{said}");
}

#[test]
fn features_and_distances_are_those_of_pytorch_fid_and_numpy() {
    let Some(python) = python_with("pytorch_fid", "features_and_distances_are_those_of_pytorch_fid_and_numpy") else { return };
    let (equal, said) = compare(&python, "fid.py", &[]);
    assert!(equal, "{said}");
}

#[test]
fn figures_of_random_partitions_are_those_of_scikit_learn_and_scipy() {
    let Some(python) = python("figures_of_random_partitions_are_those_of_scikit_learn_and_scipy") else { return };
    let (equal, said) = compare(&python, "evaluating.py", &["--random", "500"]);
    assert!(equal, "{said}");
}

#[test]
fn probes_learn_what_those_of_pytorch_learn() {
    let Some(python) = python("probes_learn_what_those_of_pytorch_learn") else { return };
    let (equal, said) = compare(&python, "probing.py", &[]);
    assert!(equal, "{said}");
}

/// The options of the reference that the quickstart does not use.
const OPTIONS: [&[&str]; 3] = [
    &[],
    &[
        "model.slot_attention.heads=2",
        "model.slot_attention.initialisation=\"learned\"",
        "model.slot_attention.bi_level=true",
        "model.slot_attention.position_embedding=\"learned\"",
        "model.unet.position_embedding=\"sincos\"",
        "model.unet.gradient_checkpointing=true",
        "diffusion.prediction=\"v\"",
    ],
    &[
        "model.slot_attention.position_embedding=\"sincos\"",
        "model.unet.position_embedding=\"learned\"",
        "model.unet.attention=[true, false]",
        "autoencoder.mid_attention=true",
        "train.clip_norm=0.0",
    ],
];

#[test]
fn training_steps_in_f64_are_those_of_pytorch_with_every_option() {
    let Some(python) = python("training_steps_in_f64_are_those_of_pytorch_with_every_option") else { return };
    let config = format!("{HERE}/system/tiny.toml");
    for options in OPTIONS {
        let set = options.iter().flat_map(|option| ["--set", option]);
        // Also with the autoencoder under its original names.
        let arguments: Vec<&str> = ["--config", &config, "--kind", "f64", "--original"].into_iter().chain(set).collect();
        let (equal, said) = compare(&python, "parity.py", &arguments);
        assert!(equal, "{options:?}:\n{said}");
    }
}

#[test]
fn every_tensor_of_movi_e_has_its_official_name_and_shape() {
    let Some(python) = python("every_tensor_of_movi_e_has_its_official_name_and_shape") else { return };
    let config = format!("{HERE}/../configs/movi-e.toml");
    let (equal, said) = compare(&python, "parity.py", &["--config", &config, "--shapes"]);
    assert!(equal, "{said}");
    for line in [
        "backbone         194 tensors   42,571,840 parameters",
        "slot_attention    32 tensors      521,472 parameters",
        "unet             782 tensors  305,588,932 parameters",
        "autoencoder      248 tensors   83,653,863 parameters",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
}

#[test]
fn diffusers_opens_what_is_exported() {
    let Some(python) = python("diffusers_opens_what_is_exported") else { return };
    let lab = Lab::prepared();
    lab.launch(&["--set", "train.steps=8"]).expect_success();
    let config = lab.path().join("tiny.toml");
    for average in [&[][..], &["--ema"]] {
        let to = format!("exported{}", average.len());
        lab.start(&[&["checkpoints", "export", "runs/tiny", "--to", &to], average].concat()).wait(PATIENCE).expect_success();
        let folder = lab.path().join(&to);
        let arguments = ["--config", config.to_str().unwrap(), "--kind", "f64", folder.to_str().unwrap()];
        let (equal, said) = compare(&python, "export.py", &arguments);
        assert!(equal, "{said}");
    }
}

#[test]
fn python_reads_what_is_exported_of_a_data_set() {
    let Some(python) = python("python_reads_what_is_exported_of_a_data_set") else { return };
    let lab = Lab::empty();
    for job in ["scenes", "autoencoder", "encode"] {
        lab.launch(&["--job", job, "--set", "data.image_format=jpeg", "--set", "data.flip=true"]).expect_success();
    }
    let data = lab.path().join("data/latents");
    let export = |from: &str, format: &str, to: &str| {
        lab.start(&["shards", "export", from, "--format", format, "--to", to]).wait(PATIENCE).expect_success();
        lab.path().join(to)
    };
    let tars = export("data/latents", "webdataset", "tars");
    // Only what is trained on has moments of mirrored images.
    let latents = export("data/latents/train", "lightningdit", "latents");
    let [data, tars, latents] = [data, tars, latents].map(|path| path.display().to_string());
    let (equal, said) = compare(&python, "shards.py", &[&data, "--webdataset", &tars, "--lightningdit", &latents]);
    assert!(equal, "{said}");
    for line in ["64 samples of train are the same by by_tarfile", "64 latents of train are the means of the moments"] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
}

/// Opens a library of slots in Python, and checks it against what is said of it.
const READS_LIBRARY: &str = "
import json, pathlib, sys
from safetensors.torch import load_file
folder = pathlib.Path(sys.argv[1])
library, info = load_file(folder / 'library.safetensors'), json.loads((folder / 'library.json').read_text())
slots, concept = library['slots'], library['concept']
assert slots.shape == (info['slots'], 16) and library['conditioning'].shape == slots.shape, slots.shape
assert concept.bincount(minlength=4).tolist() == info['sizes']
assert (library['image'] * 4 + library['slot']).tolist() == list(range(info['slots']))
distance = (slots - library['centres'][concept]).square().sum(1)
assert distance.allclose(library['distance'], atol=1e-5), (distance - library['distance']).abs().max()
assert abs(distance.double().sum() / info['inertia'] - 1) < 1e-4
for number in range(4):
    assert slots[concept == number].mean(0).allclose(library['centres'][number], atol=1e-4), number
";

#[test]
fn python_opens_the_library_of_slots() {
    let Some(python) = python("python_opens_the_library_of_slots") else { return };
    let lab = Lab::prepared();
    lab.launch(&["--set", "train.steps=8"]).expect_success();
    lab.launch(&["--set", "train.steps=8", "--job", "concepts"]).expect_success();
    let output = Command::new(&python).args(["-c", READS_LIBRARY]).arg(lab.run().concepts()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pictures_are_those_that_diffusers_samples() {
    let Some(python) = python("pictures_are_those_that_diffusers_samples") else { return };
    for options in [&[][..], &["--set", "model.unet.position_embedding=\"cartesian\""]] {
        let few = ["--images", "5", "--steps", "4", "--turns", "1"];
        let (equal, said) = compare(&python, "sampling.py", &[&few, options].concat());
        assert!(equal, "{said}");
    }
}
