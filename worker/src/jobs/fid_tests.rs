//! Composed scenes beside real images, on threads as workers: the distances are the same for any number of them.

use super::pictures_tests::{config, run, run_dir, save_initial_weights};
use super::{compose, failure_kind, one_line, scenes};
use crate::evaluation::fid::testing::random_weights;
use crate::model::{Autoencoder, Initial};
use common::config::{FidConfig, Split};
use common::control::FailureKind;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::Device;
use tokio::runtime::Runtime;

#[test]
fn composed_scenes_are_judged_by_all_workers_together() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    run(scenes::run, &config, folder.path(), 1, &runtime).unwrap();
    let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(1), Device::Cpu);
    autoencoder.save(Path::new(&config.autoencoder.weights), &config.autoencoder, 32).unwrap();
    save_initial_weights(&config, folder.path(), &runtime);
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
        let report: Value = serde_json::from_slice(&fs::read(run_dir(folder.path(), world).distances()).unwrap()).unwrap();
        assert!(summary["fid"]["distances"].as_str().unwrap().contains("real halves"), "{summary}");
        assert_eq!((&report["step"], &report["resolution"], &report["split"]), (&5.into(), &32.into(), &"validation".into()));
        assert_eq!(report["weights"]["sha256"].as_str().unwrap().len(), 64);
        report["distances"].as_array().unwrap().clone()
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
}
