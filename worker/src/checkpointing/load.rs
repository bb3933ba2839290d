//! Loading: rank 0 reads and verifies, everybody else receives, so all workers start from the same bits.

use super::parts::Snapshot;
use super::{CheckpointingError, Identity};
use crate::collectives::Collective;
use crate::model::LatentSlotDiffusion;
use crate::model::weights::from_safetensors;
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use bytes::Bytes;
use common::checkpoint::{CheckpointStore, Manifest};
use common::official::weights_part;
use std::path::Path;
use tch::Tensor;
use tokio::runtime::Handle;

/// Where a run goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Steps done, 0 for a fresh start.
    pub step: u64,
    /// Whether there was a checkpoint.
    pub found: bool,
    /// Steps with other noise than the first choice.
    pub detours: Detours,
}

/// Brings workers to the newest checkpoint of their run.
pub struct Restorer {
    store: CheckpointStore,
    identity: Identity,
    runtime: Handle,
}

impl Restorer {
    /// From the checkpoints in `store`, if they are those of `identity`.
    pub fn new(store: CheckpointStore, identity: Identity, runtime: Handle) -> Self {
        Self { store, identity, runtime }
    }

    /// Brings all workers to the newest checkpoint that verifies, or to rank 0's present state when there is none.
    ///
    /// # Errors
    /// On rank 0: a store that fails, or a checkpoint of another run, another configuration, other data or other networks; then nothing
    /// has changed. On every rank: a failure of the collective.
    pub fn restore(&self, state: &TrainingState, collective: &mut dyn Collective) -> Result<Restored, CheckpointingError> {
        let Self { store, identity, runtime } = self;
        let (mut numbers, mut detours) = ([0, 0], Vec::new());
        if collective.rank() == 0
            && let Some(manifest) = newest(store, runtime)?
        {
            identity.check(store.url(), &manifest)?;
            let snapshot = Snapshot::room(state);
            snapshot.fill(|name| read_part(store, &manifest, name, runtime))?;
            snapshot.apply(state);
            detours = manifest.extra.get("detours").map(|detours| detours.to_string().into_bytes()).unwrap_or_default();
            numbers = [manifest.step as i64 + 1, detours.len() as i64];
        }
        let [next, length] = share(&numbers, collective)?[..] else { return Err(CheckpointingError::Garbled) };
        for flat in state.flat() {
            collective.broadcast(&flat, 0)?;
        }
        detours.resize(length.unsigned_abs() as usize, 0);
        let numbers: Vec<i64> = detours.iter().map(|byte| i64::from(*byte)).collect();
        let bytes: Vec<u8> = share(&numbers, collective)?.iter().map(|number| *number as u8).collect();
        let detours = if bytes.is_empty() { Detours::default() } else { serde_json::from_slice(&bytes)? };
        Ok(Restored { step: next.saturating_sub(1).max(0).unsigned_abs(), found: next > 0, detours })
    }
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
    Ok(share(&[number as i64], collective)?.first().map_or(number, |number| number.unsigned_abs()))
}

/// Rank 0's numbers, on every rank.
fn share(numbers: &[i64], collective: &mut dyn Collective) -> Result<Vec<i64>, CheckpointingError> {
    let shared = Tensor::from_slice(numbers);
    if !numbers.is_empty() {
        collective.broadcast(&shared, 0)?;
    }
    Ok((0..numbers.len() as i64).map(|index| shared.int64_value(&[index])).collect())
}
