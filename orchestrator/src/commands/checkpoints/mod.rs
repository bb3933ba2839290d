//! `orchestrator checkpoints`: which a run has and where, whether they are whole, what differs between two, what may go, and the weights
//! in the official layout. All of it works on bytes, from any host that reaches the store: no worker, no libtorch.

mod diff;
mod export;
pub(super) mod list;
mod prune;
pub(super) mod reading;
pub(super) mod source;
pub(super) mod table;
mod verify;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;

pub(crate) use prune::Keep;

use crate::cli::CheckpointsCommand;
use crate::exit::Failure;

/// Does what the command line says.
pub(crate) fn run(command: CheckpointsCommand) -> Result<ExitCode, Failure> {
    match command {
        CheckpointsCommand::List { run, all, json } => wait_for(list::run(&run, all, json)),
        CheckpointsCommand::Verify { run, step, json } => wait_for(verify::run(&run, step, json)),
        CheckpointsCommand::Prune { run, keep, yes, json } => wait_for(prune::run(&run, keep, yes, json)),
        CheckpointsCommand::Diff { a, b, json } => wait_for(diff::run(&a, &b, json)),
        CheckpointsCommand::Export { run, to, ema, step, json } => wait_for(export::run(&run, &to, ema, step, json)),
    }
}

/// More than one thread: bytes are fetched while those before them are digested.
fn wait_for(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}
