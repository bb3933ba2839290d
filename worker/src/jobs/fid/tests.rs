//! Composed scenes beside real images, on threads as workers: the distances are the same for any number of them, and real images are
//! looked at once.

use super::kept::{MadeFrom, write};
use super::side::Side;
use crate::data::LabelledImages;
use crate::evaluation::fid::FEATURES;
use crate::evaluation::fid::testing::random_weights;
use crate::jobs::pictures_tests::{lab, run, run_dir};
use crate::jobs::{compose, failure_kind, one_line};
use common::config::{FidConfig, Split};
use common::control::FailureKind;
use common::run_dir::RunDir;
use serde_json::Value;
use std::fs;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Runtime;

#[test]
fn composed_scenes_are_judged_by_all_workers_together() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = lab(folder.path(), &runtime);
    config.checkpoint.also = vec![run_dir(folder.path(), 1).checkpoints().display().to_string()];

    let unjudged = run(compose::run, &config, folder.path(), 1, &runtime).unwrap();
    assert!(unjudged["fid"].is_null() && !run_dir(folder.path(), 1).distances().exists(), "{unjudged}");

    let weights = folder.path().join("inception.safetensors");
    config.fid = Some(FidConfig {
        weights: weights.display().to_string(),
        sha256: None,
        images: 4,
        // All 9.
        real: 0,
        split: Split::Validation,
        subsets: 3,
        subset_size: 3,
    });
    let error = run(compose::run, &config, folder.path(), 3, &runtime).unwrap_err();
    assert_eq!(failure_kind(&error), FailureKind::BadInput);
    assert!(one_line(&error).contains("inception.safetensors"), "{}", one_line(&error));
    fs::write(&weights, random_weights()).unwrap();
    fs::create_dir_all(run_dir(folder.path(), 3).path()).unwrap();

    let [alone, shared] = [1, 3].map(|world| {
        let summary = run(compose::run, &config, folder.path(), world, &runtime).unwrap();
        let report = report(&run_dir(folder.path(), world));
        assert!(summary["fid"]["distances"].as_str().unwrap().contains("real halves"), "{summary}");
        assert_eq!((&report["step"], &report["resolution"], &report["split"]), (&5.into(), &32.into(), &"validation".into()));
        assert_eq!(report["weights"]["sha256"].as_str().unwrap().len(), 64);
        distances(&run_dir(folder.path(), world))
    });
    let counts: Vec<_> = alone.iter().map(|row| row["images"].to_string()).collect();
    assert_eq!(counts, ["[4,9]", "[4,9]", "[4,5]"]);
    for (one, three) in alone.iter().zip(&shared) {
        for figure in ["fid", "kid", "kid_std"] {
            let [one, three] = [one, three].map(|row| row[figure].as_f64().unwrap());
            // Batches differ in size, and with them the rounding of convolutions; a painted pixel may be rounded to its neighbour.
            assert!((one - three).abs() < 0.02 * one.abs().max(1e-3), "{figure}: {one} and {three}");
        }
        assert!(one["fid"].as_f64().unwrap() > 0.0);
    }

    let again = || {
        run(compose::run, &config, folder.path(), 3, &runtime).unwrap();
        distances(&run_dir(folder.path(), 3))
    };
    assert_eq!(again(), shared, "the real images are known from before");
    // Indeed: those that are said to be known are all alike.
    let source = LabelledImages::open(runtime.handle(), &config.data, "validation").unwrap();
    let weights = report(&run_dir(folder.path(), 3))["weights"]["sha256"].as_str().unwrap().to_owned();
    let made_from = MadeFrom { fingerprint: source.fingerprint().to_owned(), images: 9, weights, seed: config.run.seed };
    let mut alike = Side::new(9, config.run.seed);
    alike.add(0..9, &Tensor::ones([9, FEATURES], (Kind::Float, Device::Cpu)));
    write(&run_dir(folder.path(), 3).real_features(), &made_from, &alike).unwrap();
    let found = again();
    assert!(found[2]["fid"].as_f64().unwrap().abs() < 1e-6 && found[0]["fid"] != shared[0]["fid"], "{found:?}");
}

fn report(run: &RunDir) -> Value {
    serde_json::from_slice(&fs::read(run.distances()).unwrap()).unwrap()
}

fn distances(run: &RunDir) -> Vec<Value> {
    report(run)["distances"].as_array().unwrap().clone()
}
