//! `orchestrator checkpoints export`: the networks of a checkpoint, a folder each as the official implementation has them. Our tensors
//! bear its names and our parts are its files, so this copies bytes.

use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use common::checkpoint::{CheckpointStore, Manifest};
use common::config::Config;
use common::official::{NETWORKS, weights_part};
use common::storage::Store;
use serde_json::json;

use super::source::{Source, passed_over};
use crate::commands::output::print;
use crate::exit::{Failure, OrBadInput};

/// Writes them into `to`: those of the newest checkpoint that verifies, or those of `step`.
pub(super) async fn run(run: &str, to: &str, average: bool, step: Option<u64>, as_json: bool) -> Result<ExitCode, Failure> {
    let source = Source::open(run).await?;
    let Some(config) = &source.config else {
        let text = format!("{run} is a place with checkpoints: name the run's folder, which says what networks they are of");
        return Err(Failure::bad_input(text));
    };
    let target = Store::open(to).or_bad_input()?;
    if target.list("").await?.iter().any(|entry| NETWORKS.iter().any(|network| entry.name.starts_with(network.folder))) {
        return Err(Failure::bad_input(format!("{} already holds networks: choose another folder", target.url())));
    }
    let (store, manifest) = whole(&source, step).await?;
    if average && manifest.part(&weights_part(NETWORKS[0].module, true)).is_none() {
        let (url, step) = (store.url(), manifest.step);
        return Err(Failure::bad_input(format!("{url}: no moving average in step {step} (train.ema_decay = 0)")));
    }
    copy(store, &manifest, config, &target, average).await?;
    if as_json {
        print(&format!("{:#}\n", json!({"step": manifest.step, "ema": average, "to": target.url()})))?;
    } else {
        let what = if average { "moving average" } else { "weights" };
        print(&format!("{what} of step {} in {}\n", manifest.step, target.url()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest checkpoint, of `step` if that is named, of which every byte is as it was saved; says which are passed over.
async fn whole(source: &Source, step: Option<u64>) -> Result<(&CheckpointStore, Manifest), Failure> {
    for (place, sighting) in source.committed(step).await? {
        let found = match place.inspector.manifest(&sighting).await {
            Ok(manifest) => place.inspector.verify(&manifest, |_| ()).await.map(|()| manifest),
            Err(error) => Err(error),
        };
        match found {
            Ok(manifest) => return Ok((place.inspector.checkpoints(), manifest)),
            Err(error) if error.is_damage() => drop(passed_over(&sighting, error)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::bad_input(format!("no checkpoint that is whole in {}", source.urls())))
}

/// The weights of each network, then its description, so that a description means whole weights.
async fn copy(store: &CheckpointStore, manifest: &Manifest, config: &Config, to: &Store, average: bool) -> Result<(), Failure> {
    for network in NETWORKS {
        let name = weights_part(network.module, average);
        let part = manifest.part(&name).with_context(|| format!("{}: step {} has no part {name}", store.url(), manifest.step))?;
        let folder = to.child(network.folder);
        folder.put("diffusion_pytorch_model.safetensors", store.read_part(part).await?).await?;
        folder.put("config.json", Bytes::from(format!("{:#}\n", network.description(config)))).await?;
    }
    Ok(())
}
