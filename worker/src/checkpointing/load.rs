//! Loading: rank 0 reads and verifies, everybody else receives, so all workers start from the same bits.

use super::parts::Snapshot;
use super::{CheckpointingError, Identity};
use crate::collectives::Collective;
use crate::model::LatentSlotDiffusion;
use crate::model::weights::from_safetensors;
use crate::training::step::TrainingState;
use bytes::Bytes;
use common::checkpoint::{CheckpointStore, Manifest};
use common::official::weights_part;
use std::path::Path;
use tch::{Kind, Tensor};
use tokio::runtime::Handle;

/// Where a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Steps done, 0 for a fresh start.
    pub step: u64,
}

/// Brings all workers to the newest checkpoint that verifies, or to rank 0's initial state when there is none.
///
/// # Errors
/// On rank 0: a store that fails, or a checkpoint of another run, another configuration, other data or other networks; then nothing has
/// changed. On every rank: a failure of the collective.
pub fn restore(
    store: &CheckpointStore,
    identity: &Identity,
    state: &TrainingState,
    collective: &mut dyn Collective,
    runtime: &Handle,
) -> Result<Restored, CheckpointingError> {
    let mut step = 0;
    if collective.rank() == 0
        && let Some(manifest) = newest(store, runtime)?
    {
        identity.check(store.url(), &manifest)?;
        let snapshot = Snapshot::room(state);
        snapshot.fill(|name| read_part(store, &manifest, name, runtime))?;
        snapshot.apply(state);
        step = manifest.step;
    }
    let step = agree(step, collective)?;
    for flat in state.flat() {
        collective.broadcast(&flat, 0)?;
    }
    Ok(Restored { step })
}

/// Loads the networks' weights from the newest checkpoint that verifies: their moving average if `average` and if there is one. Every
/// worker gets rank 0's. Returns the checkpoint's step.
///
/// # Errors
/// No checkpoint, or one of other networks.
pub fn load_weights(
    store: &CheckpointStore,
    model: &LatentSlotDiffusion,
    average: bool,
    collective: &mut dyn Collective,
    runtime: &Handle,
) -> Result<u64, CheckpointingError> {
    let mut step = 0;
    if collective.rank() == 0 {
        let Some(manifest) = newest(store, runtime)? else {
            return Err(CheckpointingError::Nothing { url: store.url().to_owned() });
        };
        for module in &model.modules {
            let average = average && manifest.part(&weights_part(module.name, true)).is_some();
            let name = weights_part(module.name, average);
            let bytes = read_part(store, &manifest, &name, runtime)?;
            from_safetensors(Path::new(&format!("{name}.safetensors")), &bytes, &module.variables)?;
        }
        step = manifest.step;
    }
    for variable in model.modules.iter().flat_map(|module| &module.variables) {
        collective.broadcast(&variable.tensor.detach(), 0)?;
    }
    agree(step, collective)
}

/// The newest checkpoint that verifies; says in the log which newer ones do not, and why.
fn newest(store: &CheckpointStore, runtime: &Handle) -> Result<Option<Manifest>, CheckpointingError> {
    let (manifest, skipped) = runtime.block_on(store.newest_verified())?;
    for skipped in skipped {
        tracing::warn!("checkpoint {} is passed over: {}", skipped.name, skipped.reason);
    }
    Ok(manifest)
}

fn read_part(store: &CheckpointStore, manifest: &Manifest, name: &str, runtime: &Handle) -> Result<Bytes, CheckpointingError> {
    let missing = || CheckpointingError::MissingPart { url: store.url().to_owned(), step: manifest.step, part: name.to_owned() };
    let part = manifest.part(name).ok_or_else(missing)?;
    Ok(runtime.block_on(store.read_part(part))?)
}

/// Rank 0's number, on every rank.
fn agree(number: u64, collective: &mut dyn Collective) -> Result<u64, CheckpointingError> {
    let shared = Tensor::from_slice(&[number as i64]).to_kind(Kind::Int64);
    collective.broadcast(&shared, 0)?;
    Ok(shared.int64_value(&[0]) as u64)
}
