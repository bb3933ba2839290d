//! What a run wrote down: metrics, checkpoints, journal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::checkpoint::{CheckpointStore, Manifest};
use common::run_dir::RunDir;
use common::storage::Store;
use serde_json::Value;

/// Digest of every part of a checkpoint by the part's name.
pub type Weights = BTreeMap<String, blake3::Hash>;

/// The whole lines of a JSONL file; none when there is no file. A last line that is only half there does not count.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// The step of the newest metric record.
pub fn last_step(run: &RunDir) -> Option<u64> {
    lines(&run.metrics()).last()?["step"].as_u64()
}

/// One figure of every metric record in order; those of evaluations have figures of their own.
pub fn series(run: &RunDir, figure: &str) -> Vec<f64> {
    let value = |record: &Value| record[figure].as_f64().unwrap_or_else(|| panic!("no {figure} in {record}"));
    lines(&run.metrics()).iter().filter(|record| record.get("evaluation/seconds").is_none()).map(value).collect()
}

/// How many times workers were started, over all launches.
pub fn generations(run: &RunDir) -> u64 {
    lines(&run.journal()).iter().filter_map(|event| event["generation"].as_u64()).max().unwrap_or_default()
}

/// The step of the newest checkpoint that verifies.
pub fn newest_checkpoint(run: &RunDir) -> Option<u64> {
    newest(&run.checkpoints()).map(|(_, manifest)| manifest.step)
}

/// The parts of the newest checkpoint, which has to be of `step`.
pub fn final_weights(run: &RunDir, step: u64) -> Weights {
    weights_in(&run.checkpoints(), step)
}

/// The same of the checkpoints in any folder.
pub fn weights_in(folder: &Path, step: u64) -> Weights {
    let (store, manifest) = newest(folder).expect("a checkpoint");
    assert_eq!(manifest.step, step);
    assert!(manifest.parts.iter().any(|part| part.name.contains("weights")), "no weights among {:?}", manifest.parts);
    let digest = |part| blake3::hash(&wait_for(store.read_part(part)).unwrap());
    manifest.parts.iter().map(|part| (part.name.clone(), digest(part))).collect()
}

/// The newest checkpoint in a folder that verifies.
pub fn newest(folder: &Path) -> Option<(CheckpointStore, Manifest)> {
    let store = CheckpointStore::new(Store::open(&folder.display().to_string()).unwrap());
    let (manifest, _) = wait_for(store.newest_verified()).unwrap();
    manifest.map(|manifest| (store, manifest))
}

/// What a future comes to.
pub fn wait_for<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
