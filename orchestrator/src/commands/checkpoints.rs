//! `orchestrator checkpoints`: which checkpoints a run has, and the newest one in the official layout.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use common::checkpoint::{CheckpointStore, Manifest};
use common::config::{Config, load};
use common::official::{NETWORKS, weights_part};
use common::run_dir::RunDir;
use common::storage::Store;
use serde_json::json;

use crate::exit::{Failure, OrBadInput};
use crate::run_folder::FolderError;

/// Lists them, newest first. Whether one is whole is for the worker to find out, which reads every byte.
pub(crate) fn list(run: PathBuf, as_json: bool) -> Result<ExitCode, Failure> {
    let (_, url, store) = open(run)?;
    let listed = runtime()?.block_on(store.list())?;
    if as_json {
        let rows: Vec<_> = listed
            .iter()
            .map(|checkpoint| json!({"step": checkpoint.step, "generation": checkpoint.generation, "manifest": checkpoint.object}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if listed.is_empty() {
        println!("no checkpoints in {url}");
    } else {
        println!("{:>10}  {:>10}  manifest (in {url})", "step", "generation");
        for checkpoint in &listed {
            println!("{:>10}  {:>10}  {}", checkpoint.step, checkpoint.generation, checkpoint.object);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the networks of the newest checkpoint that verifies into `to`, a folder each as the official implementation has them. Our
/// tensors bear its names and our parts are its files, so this copies bytes and needs no worker.
pub(crate) fn export(run: PathBuf, to: &str, average: bool) -> Result<ExitCode, Failure> {
    let (config, url, store) = open(run)?;
    let target = Store::open(to).or_bad_input()?;
    let runtime = runtime()?;
    let (manifest, skipped) = runtime.block_on(store.newest_verified())?;
    for skipped in skipped {
        eprintln!("passed over {}: {}", skipped.name, skipped.reason);
    }
    let Some(manifest) = manifest else { return Err(Failure::bad_input(format!("no checkpoints in {url}"))) };
    if average && manifest.part(&weights_part(NETWORKS[0].module, true)).is_none() {
        return Err(Failure::bad_input(format!("{url}: no moving average in step {} (train.ema_decay = 0)", manifest.step)));
    }
    if runtime.block_on(target.list(""))?.iter().any(|entry| NETWORKS.iter().any(|network| entry.name.starts_with(network.folder)))
    {
        return Err(Failure::bad_input(format!("{} already holds networks: choose another folder", target.url())));
    }
    runtime.block_on(copy(&store, &manifest, &config, &target, average))?;
    let what = if average { "moving average" } else { "weights" };
    println!("{what} of step {} in {}", manifest.step, target.url());
    Ok(ExitCode::SUCCESS)
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

/// A run's configuration, and where its checkpoints are.
fn open(run: PathBuf) -> Result<(Config, String, CheckpointStore), Failure> {
    let folder = RunDir::new(&run);
    if !folder.run_toml().is_file() {
        return Err(FolderError::NoRun { folder: run }).or_bad_input();
    }
    let config = load::from_file(&folder.run_toml(), &[]).or_bad_input()?;
    let url = config.checkpoint.url.clone().unwrap_or_else(|| folder.checkpoints().display().to_string());
    let store = CheckpointStore::new(Store::open(&url).or_bad_input()?);
    Ok((config, url, store))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?)
}
