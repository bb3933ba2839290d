//! The probe job on threads as workers.

use super::pictures_tests::{config, run, run_dir, save};
use super::{probe, scenes};
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::training::step::TrainingState;
use common::config::{Config, HoldOut, ProbeConfig};
use common::run_dir::RunDir;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::Device;
use tokio::runtime::Runtime;

fn probe_config(folder: &Path) -> Config {
    let mut config = config(folder);
    config.scenes.validation = 30;
    config.evaluate.batch = 4;
    config.probe = ProbeConfig { steps: 500, learning_rate: 1e-2, ..ProbeConfig::default() };
    config
}

/// A checkpoint of other weights than the initial ones.
fn save_other_weights(config: &Config, run: &RunDir, runtime: &Runtime) {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(config.run.seed + 1), Device::Cpu);
    save(config, &TrainingState::new(model, config).unwrap(), run, runtime);
}

fn figures(run: &RunDir) -> Value {
    serde_json::from_slice(&fs::read(run.probes()).unwrap()).unwrap()
}

#[test]
fn any_number_of_workers_reads_the_same_off_the_slots() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = probe_config(folder.path());
    run(scenes::run, &config, folder.path(), 2, &runtime).unwrap();
    let [alone, shared] = [1, 3].map(|world| {
        let place = run_dir(folder.path(), world);
        save_other_weights(&config, &place, &runtime);
        let summary = run(probe::run, &config, folder.path(), world, &runtime).unwrap();
        assert!(summary["probes"].as_str().unwrap().contains("position, R2"), "{summary}");
        let mut found = figures(&place);
        found["picture"] = Value::Null;
        (found, fs::read(place.pictures().join("probe.png")).unwrap())
    });
    // Not even rounding differs: batches are the same whoever takes them.
    assert_eq!(alone, shared);
    let found = alone.0;
    assert_eq!((&found["step"], &found["images"], &found["hold_out"]), (&5.into(), &30.into(), &"images".into()));
    let names: Vec<&str> = found["labels"].as_array().unwrap().iter().map(|label| label["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shape", "colour", "material", "size", "position", "rotation"]);
    assert!(found["labels"][1]["trained"] != found["labels"][1]["untrained"], "{found}");
    let position = |side: &str| found["labels"][4][side]["r2"].as_f64().unwrap();
    assert!(position("trained").is_finite() && position("constant").abs() < 0.1, "{found}");
}

#[test]
fn what_cannot_be_probed_is_refused_in_a_line() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = probe_config(folder.path());
    config.scenes.validation = 6;
    run(scenes::run, &config, folder.path(), 1, &runtime).unwrap();
    save_other_weights(&config, &run_dir(folder.path(), 1), &runtime);
    config.probe.images = 1;
    let refused = run(probe::run, &config, folder.path(), 1, &runtime).unwrap_err().to_string();
    assert!(refused.contains("too few to hold some of them out") && refused.contains("probe.images"), "{refused}");
    config.probe.hold_out = HoldOut::Objects;
    config.probe.images = 0;
    run(probe::run, &config, folder.path(), 1, &runtime).unwrap();
    assert_eq!(figures(&run_dir(folder.path(), 1))["hold_out"], "objects");
}
