//! Checkpoints of the official implementation as the start of a run.

use common::config::Config;
use common::official;
use serde_json::Value;
use tokio::runtime::Handle;

use super::WeightsError;
use super::file::Stored;
use super::source::{CONFIG_FILE, find};
use crate::model::Module;

/// What no tensor's shape tells, and what makes another network of the same tensors.
const TOLD_BY_DESCRIPTION: [&str; 5] = ["attention_head_dim", "epsilon", "norm_num_groups", "num_heads", "pos_type"];

/// Loads the networks from the three folders at `url`. The optimizer's state beside them is not read.
///
/// # Errors
/// A folder that is absent or cannot be read, or holds another network than the configured one; then no variable has changed.
pub fn load_official(url: &str, config: &Config, modules: &[Module], runtime: &Handle) -> Result<(), WeightsError> {
    let advice = "set model.initial_weights to a checkpoint folder of the official implementation";
    let mut found = Vec::new();
    for module in modules {
        let Some(network) = official::network(module.name) else { continue };
        let folder = format!("{}/{}", url.trim_end_matches('/'), network.folder);
        let weights = find(&folder, advice, runtime)?;
        same_settings(&folder, &weights.description, &network.description(config))?;
        found.push((module, weights));
    }
    let stored = found.iter().map(|(module, found)| Ok((module, Stored::read(&found.file, &found.bytes, &module.variables)?)));
    let stored = stored.collect::<Result<Vec<_>, WeightsError>>()?;
    stored.iter().try_for_each(|(module, stored)| stored.load(&module.variables))
}

/// That a description agrees with the configured network's in what only it tells.
fn same_settings(folder: &str, theirs: &Value, ours: &Value) -> Result<(), WeightsError> {
    let differs = |key: &&&str| !theirs[**key].is_null() && !ours[**key].is_null() && theirs[**key] != ours[**key];
    match TOLD_BY_DESCRIPTION.iter().find(differs) {
        None => Ok(()),
        Some(key) => Err(WeightsError::Format {
            file: format!("{folder}/{CONFIG_FILE}"),
            reason: format!("{key} is {} there and {} in the configuration", theirs[*key], ours[*key]),
        }),
    }
}
