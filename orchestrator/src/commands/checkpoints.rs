//! `orchestrator checkpoints list`: which checkpoints a run has.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use common::checkpoint::CheckpointStore;
use common::config::load;
use common::run_dir::RunDir;
use common::storage::Store;
use serde_json::json;

use crate::exit::{Failure, OrBadInput};
use crate::run_folder::FolderError;

/// Lists them, newest first. Whether one is whole is for the worker to find out, which reads every byte.
pub(crate) fn list(run: PathBuf, as_json: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(&run);
    if !folder.run_toml().is_file() {
        return Err(FolderError::NoRun { folder: run }).or_bad_input();
    }
    let config = load::from_file(&folder.run_toml(), &[]).or_bad_input()?;
    let url = config.checkpoint.url.unwrap_or_else(|| folder.checkpoints().display().to_string());
    let store = CheckpointStore::new(Store::open(&url).or_bad_input()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let listed = runtime.block_on(store.list())?;
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
