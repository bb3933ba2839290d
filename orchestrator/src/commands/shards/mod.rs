//! `orchestrator shards`: what a data set holds, whether it is whole, the figures of its columns, and its way to other trainers. All of it works on bytes, from any host
//! that reaches the store: images stay encoded.

mod export;
mod inspect;
mod stats;
mod verify;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use common::shards::{Manifest, ShardError, existing};
use common::storage::Store;

pub(crate) use export::Format;

use crate::cli::ShardsCommand;
use crate::exit::Failure;

/// The folders of a data set that jobs read.
const SPLITS: [&str; 2] = ["train", "validation"];

/// Does what the command line says.
pub(crate) fn run(command: ShardsCommand) -> Result<ExitCode, Failure> {
    match command {
        ShardsCommand::Inspect { url, json } => wait_for(inspect::run(&url, json)),
        ShardsCommand::Verify { url, json } => wait_for(verify::run(&url, json)),
        ShardsCommand::Export { url, to, format, json } => wait_for(export::run(&url, &to, format, json)),
        ShardsCommand::Stats { url, rows, json } => wait_for(stats::run(&url, rows, json)),
    }
}

/// More than one thread: bytes are fetched while those before them are digested.
fn wait_for(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}

/// A complete data set.
struct Split {
    store: Store,
    manifest: Manifest,
}

/// The data set at `url`, or those of its splits.
async fn open(url: &str) -> Result<Vec<Split>, Failure> {
    let store = Store::open(url).map_err(Failure::bad_input)?;
    let mut found = Vec::new();
    for place in [store.clone()].into_iter().chain(SPLITS.map(|split| store.child(split))) {
        match existing(&place).await {
            Ok(Some(manifest)) => found.push(Split { store: place, manifest }),
            Ok(None) => {}
            Err(ShardError::Storage(error)) if !error.is_refusal() => return Err(anyhow::Error::from(error).into()),
            Err(error) => return Err(Failure::bad_input(error)),
        }
    }
    if found.is_empty() {
        let url = store.url();
        return Err(Failure::bad_input(format!("{url}: no complete data set here or in train/ and validation/ below")));
    }
    Ok(found)
}
