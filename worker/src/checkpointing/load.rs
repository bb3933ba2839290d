//! Loading: all workers read and verify their shares of the newest checkpoint, and give them to each other, so that all start from the
//! same bits.

use super::parts::{Part, assign, parts};
use super::{CheckpointingError, Identity};
use crate::collectives::Collective;
use crate::model::weights::Incoming;
use crate::model::{LatentSlotDiffusion, Variable};
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::checkpoint::{CheckpointError, CheckpointStore, Listed, Manifest, Part as Written};
use common::crash::{self, Point};
use common::official::weights_part;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Mutex, PoisonError};
use tch::{Kind, Tensor};
use tokio::runtime::Handle;

/// Threads that read a worker's share: while one digests and copies, the pieces of the others come.
const READERS: usize = 3;

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
    /// In the order of trust among equals.
    stores: Vec<CheckpointStore>,
    identity: Identity,
    runtime: Handle,
}

/// A checkpoint to try: in which store, and what it consists of.
type Candidate = (usize, Manifest);

impl Restorer {
    /// From the newest of the checkpoints in `stores`, if they are those of `identity`.
    pub fn new(stores: Vec<CheckpointStore>, identity: Identity, runtime: Handle) -> Self {
        Self { stores, identity, runtime }
    }

    /// Brings all workers to the newest checkpoint that verifies, or to rank 0's present state when there is none.
    ///
    /// # Errors
    /// A store that fails, a checkpoint of another run, another configuration, other data or other networks, or checkpoints of which none
    /// is whole; on every rank. The state may then be anything.
    pub fn restore(&self, state: &TrainingState, collective: &mut dyn Collective) -> Result<Restored, CheckpointingError> {
        let leader = collective.rank() == 0;
        let listed = if leader { self.listed() } else { Ok(Vec::new()) };
        let mut listed = agree_on(listed, collective)?.into_iter();
        let mut damaged = Vec::new();
        loop {
            let candidate = if leader { self.next(&mut listed, &mut damaged) } else { Ok(None) };
            let candidate: Option<Candidate> = tell(agree_on(candidate, collective)?.as_ref(), collective)?;
            let Some((store, manifest)) = candidate else { break };
            let read = self.read_share(store, &manifest, state, collective);
            match agree_on(read, collective) {
                Ok(()) => {
                    self.stores[store].judge(&manifest, true);
                    self.exchange(state, collective)?;
                    let detours = manifest.extra.get("detours").cloned().map(serde_json::from_value).transpose()?;
                    return Ok(Restored { step: manifest.step, found: true, detours: detours.unwrap_or_default() });
                }
                Err(error) if error.is_damage() => {
                    self.stores[store].judge(&manifest, false);
                    pass_over(&mut damaged, manifest.step, &error);
                }
                Err(error) => return Err(error),
            }
        }
        let nothing = tell(Some(&damaged), collective)?.unwrap_or_default();
        if !nothing.is_empty() {
            let urls: Vec<&str> = self.stores.iter().map(CheckpointStore::url).collect();
            return Err(CheckpointingError::AllDamaged { url: urls.join(", "), reasons: nothing.join("; ") });
        }
        for flat in state.flat() {
            collective.broadcast(&flat, 0)?;
        }
        Ok(Restored { step: 0, found: false, detours: Detours::default() })
    }

    /// The checkpoints of all stores, newest first.
    fn listed(&self) -> Result<Vec<(usize, Listed)>, CheckpointingError> {
        let mut all = Vec::new();
        for (index, store) in self.stores.iter().enumerate() {
            all.extend(self.runtime.block_on(store.list())?.into_iter().map(|listed| (index, listed)));
        }
        // Stable: of equal ones, the first store's comes first.
        all.sort_by_key(|(_, listed)| std::cmp::Reverse((listed.step, listed.generation)));
        Ok(all)
    }

    /// The next one whose manifest can be believed.
    fn next(
        &self,
        listed: &mut impl Iterator<Item = (usize, Listed)>,
        damaged: &mut Vec<String>,
    ) -> Result<Option<Candidate>, CheckpointingError> {
        for (index, listed) in listed {
            let store = &self.stores[index];
            match self.runtime.block_on(store.open(&listed)) {
                Ok(manifest) => {
                    self.identity.check(store.url(), &manifest)?;
                    return Ok(Some((index, manifest)));
                }
                Err(error) if error.is_damage() => pass_over(damaged, listed.step, &error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Reads this worker's share of the parts into the state.
    fn read_share(
        &self,
        store: usize,
        manifest: &Manifest,
        state: &TrainingState,
        collective: &dyn Collective,
    ) -> Result<(), CheckpointingError> {
        let (store, flat) = (&self.stores[store], state.flat());
        let mine = shares(state, collective.world()).filter(|(_, owner)| *owner == collective.rank());
        let mine: Vec<_> = mine.map(|(part, _)| (part.variables(&flat), part.name)).collect();
        let wanted = mine.into_iter().map(|(variables, name)| Ok((variables, find_part(store, manifest, &name)?)));
        let wanted = Mutex::new(wanted.collect::<Result<Vec<_>, CheckpointingError>>()?.into_iter());
        let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).next();
        let read = || {
            while let Some((variables, part)) = next() {
                self.runtime.block_on(read_into(store, part, &variables))?;
                crash::point(Point::Restoring);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            let panicked = |_| Err(CheckpointingError::Writer("a thread that reads a checkpoint panicked".into()));
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(panicked))
        })
    }

    /// Every worker gives its share to all others.
    fn exchange(&self, state: &TrainingState, collective: &mut dyn Collective) -> Result<(), CheckpointingError> {
        let flat = state.flat();
        for (part, owner) in shares(state, collective.world()) {
            let values = flat[part.flat].narrow(0, part.range.start, part.range.end - part.range.start);
            collective.broadcast(&values, owner)?;
        }
        Ok(())
    }
}

/// Every part, and the worker whose it is.
fn shares(state: &TrainingState, world: usize) -> impl Iterator<Item = (Part, usize)> {
    let parts = parts(state);
    let owners = assign(&parts.iter().map(Part::bytes).collect::<Vec<_>>(), world);
    parts.into_iter().zip(owners)
}

fn pass_over(damaged: &mut Vec<String>, step: u64, error: &CheckpointingError) {
    tracing::warn!("the checkpoint of step {step} is passed over: {error}");
    damaged.push(format!("step {step}: {error}"));
}

/// Loads the networks' weights from the newest checkpoint in `stores` that verifies: their moving average if `average` and if there is
/// one. Every worker gets rank 0's. Returns the checkpoint's step.
///
/// # Errors
/// No checkpoint, or one of other networks: on rank 0; the others are told that there is none.
pub fn load_weights(
    stores: &[CheckpointStore],
    model: &LatentSlotDiffusion,
    average: bool,
    collective: &mut dyn Collective,
    runtime: &Handle,
) -> Result<u64, CheckpointingError> {
    let read = if collective.rank() == 0 { read_newest(stores, model, average, runtime) } else { Ok(0) };
    let step = agree_on(read, collective)?;
    for variable in model.modules.iter().flat_map(|module| &module.variables) {
        collective.broadcast(&variable.tensor.detach(), 0)?;
    }
    Ok(tell(Some(&step), collective)?.unwrap_or(step))
}

/// Reads the weights of the newest checkpoint that verifies, and says of which step it is.
fn read_newest(
    stores: &[CheckpointStore],
    model: &LatentSlotDiffusion,
    average: bool,
    runtime: &Handle,
) -> Result<u64, CheckpointingError> {
    let Some((store, manifest)) = newest(stores, runtime)? else {
        let urls: Vec<&str> = stores.iter().map(CheckpointStore::url).collect();
        return Err(CheckpointingError::Nothing { url: urls.join(", ") });
    };
    for module in &model.modules {
        let average = average && manifest.part(&weights_part(module.name, true)).is_some();
        let part = find_part(store, &manifest, &weights_part(module.name, average))?;
        runtime.block_on(read_into(store, part, &module.variables))?;
    }
    Ok(manifest.step)
}

/// The newest checkpoint that verifies, and where it is; says in the log which newer ones do not, and why.
fn newest<'a>(
    stores: &'a [CheckpointStore],
    runtime: &Handle,
) -> Result<Option<(&'a CheckpointStore, Manifest)>, CheckpointingError> {
    let mut listed = Vec::new();
    for store in stores {
        listed.extend(runtime.block_on(store.list())?.first().map(|newest| (newest.step, store)));
    }
    // Stable: of equal ones, the first store's comes first.
    listed.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    let mut best: Option<(&CheckpointStore, Manifest)> = None;
    for (step, store) in listed {
        if best.as_ref().is_some_and(|(_, best)| best.step >= step) {
            break;
        }
        let (manifest, skipped) = runtime.block_on(store.newest_verified())?;
        for skipped in skipped {
            tracing::warn!("checkpoint {} in {} is passed over: {}", skipped.name, store.url(), skipped.reason);
        }
        let newer = |manifest: &Manifest| best.as_ref().is_none_or(|(_, best)| manifest.step > best.step);
        best = manifest.filter(newer).map(|manifest| (store, manifest)).or(best);
    }
    Ok(best)
}

/// Reads a part into variables while it comes; a second time before damage is an error.
async fn read_into(store: &CheckpointStore, part: &Written, variables: &[Variable]) -> Result<(), CheckpointingError> {
    match read_once_into(store, part, variables).await {
        Err(CheckpointingError::Checkpoint(error @ CheckpointError::Corrupt { .. })) => {
            tracing::warn!("reading a part again: {error}");
            read_once_into(store, part, variables).await
        }
        read => read,
    }
}

async fn read_once_into(store: &CheckpointStore, part: &Written, variables: &[Variable]) -> Result<(), CheckpointingError> {
    let mut reader = store.reader(part).await?;
    let file = format!("{}/{}", store.url(), part.object);
    let mut incoming = Incoming::new(&file, variables);
    let mut understood = Ok(());
    while let Some(piece) = reader.next().await? {
        if understood.is_ok() {
            understood = incoming.feed(&piece);
        }
    }
    // What is damaged need not make sense.
    reader.finish().await?;
    understood.and_then(|()| incoming.finish()).map_err(Into::into)
}

fn find_part<'a>(store: &CheckpointStore, manifest: &'a Manifest, name: &str) -> Result<&'a Written, CheckpointingError> {
    let missing = || CheckpointingError::MissingPart { url: store.url().to_owned(), step: manifest.step, part: name.to_owned() };
    manifest.part(name).ok_or_else(missing)
}

/// What rank 0 says, on every rank.
fn tell<T: Serialize + DeserializeOwned>(
    what: Option<&T>,
    collective: &mut dyn Collective,
) -> Result<Option<T>, CheckpointingError> {
    let mut text = match what {
        Some(what) if collective.rank() == 0 => serde_json::to_vec(what)?,
        _ => Vec::new(),
    };
    let length = Tensor::from_slice(&[text.len() as i64]);
    collective.broadcast(&length, 0)?;
    let length = length.int64_value(&[0]);
    if length == 0 {
        return Ok(None);
    }
    text.resize(length.unsigned_abs() as usize, 0);
    let letters: Vec<i64> = text.iter().map(|&letter| i64::from(letter)).collect();
    let letters = Tensor::from_slice(&letters);
    collective.broadcast(&letters, 0)?;
    let letters: Vec<i64> =
        Vec::try_from(&letters).map_err(|error: tch::TchError| CheckpointingError::Garbled { cause: error.to_string() })?;
    let text: Vec<u8> = letters.into_iter().map(|letter| u8::try_from(letter).unwrap_or_default()).collect();
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Every worker's result: a failure of one is one of all, and damage that one has found counts as damage everywhere.
fn agree_on<T>(result: Result<T, CheckpointingError>, collective: &mut dyn Collective) -> Result<T, CheckpointingError> {
    let grave = |error: &CheckpointingError| if error.is_damage() { 1.0 } else { 1e6 };
    let failures = Tensor::from_slice(&[result.as_ref().err().map_or(0.0, grave)]).to_kind(Kind::Double);
    collective.all_reduce_sum(&failures)?;
    match (result, failures.double_value(&[0])) {
        (Ok(value), 0.0) => Ok(value),
        (Ok(_), failures) if failures < 1e6 => Err(CheckpointingError::DamageElsewhere),
        (Ok(_), _) => Err(CheckpointingError::FailedElsewhere),
        (Err(error), failures) if failures >= 1e6 && error.is_damage() => {
            tracing::warn!("{error}");
            Err(CheckpointingError::FailedElsewhere)
        }
        (Err(error), _) => Err(error),
    }
}

/// A number that all workers agree on, and that no other start of any run has.
///
/// # Errors
/// A failure of the collective.
pub fn draw_nonce(collective: &mut dyn Collective) -> Result<u64, CheckpointingError> {
    let drawn = getrandom::u64().map_err(|error| CheckpointingError::Writer(format!("no random number: {error}")))?;
    tell(Some(&drawn), collective)?.ok_or_else(|| CheckpointingError::Garbled { cause: "no number".into() })
}
