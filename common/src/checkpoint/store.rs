//! Where a run's checkpoints lie: find the newest good one, read it, clear old ones away.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::catalogue::{self, Candidate, Found, Place, Retention};
use super::{Attempt, CheckpointError, Fence, Manifest, Part, VERSION};
use crate::sealed;
use crate::storage::{StorageError, Store};

/// Bytes of a part that are in memory at a time while it is verified.
const VERIFY_BYTES: u64 = 32 << 20;
/// A run never has fewer checkpoints than this once it has saved them: the newest may turn out to be damaged.
const LEAST_KEPT: usize = 2;

/// The checkpoints of one run.
#[derive(Clone)]
pub struct CheckpointStore {
    store: Store,
    known: Known,
}

/// A committed checkpoint, by its name alone; whether it is whole is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Optimizer steps taken.
    pub step: u64,
    /// Generation that saved it.
    pub generation: u64,
    /// Its manifest.
    pub object: String,
}

/// A checkpoint that was passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its manifest.
    pub name: String,
    /// What is wrong with it, naming the object.
    pub reason: String,
}

/// Which attempts this process has found whole or damaged, so that clearing away reads each checkpoint once and not every time.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<HashMap<String, bool>>>);

impl Known {
    pub(super) fn remember(&self, place: Place, good: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place.folder(), good);
    }

    fn recall(&self, place: &Place) -> Option<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place.folder()).copied()
    }
}

impl CheckpointStore {
    /// The checkpoints in `store`. Nothing is read or written.
    pub fn new(store: Store) -> Self {
        Self { store, known: Known::default() }
    }

    /// Where the checkpoints are, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// Begins to save `step` in a folder that nobody else writes to.
    pub fn begin(&self, step: u64, generation: u64) -> Result<Attempt, CheckpointError> {
        let random = getrandom::u64().map_err(CheckpointError::Random)?;
        Ok(self.join(step, generation, random, None))
    }

    /// Takes part in saving `step` in the folder with the number `random`, on which all its writers have agreed, and which was never
    /// taken before. With a fence, no commit succeeds once a later generation has begun.
    pub fn join(&self, step: u64, generation: u64, random: u64, fence: Option<Fence>) -> Attempt {
        let place = Place { step, generation, random };
        Attempt { store: self.store.clone(), place, known: self.known.clone(), fence }
    }

    /// A fence for the generation that begins now.
    pub async fn fence(&self) -> Result<Fence, CheckpointError> {
        let before: HashSet<String> = self.attempts().await?.iter().map(|found| found.place.folder()).collect();
        Ok(Fence { before: Arc::new(before) })
    }

    /// The committed checkpoints, newest step first, unverified.
    pub async fn list(&self) -> Result<Vec<Listed>, CheckpointError> {
        let attempts = self.attempts().await?;
        let committed = attempts.into_iter().filter(|attempt| attempt.committed);
        let listed =
            |Found { place, .. }: Found| Listed { step: place.step, generation: place.generation, object: place.manifest() };
        Ok(committed.map(listed).collect())
    }

    /// The manifest of a checkpoint, verified; its parts are not read.
    pub async fn open(&self, listed: &Listed) -> Result<Manifest, CheckpointError> {
        let folder = listed.object.rsplit_once('/').map_or("", |(folder, _)| folder);
        let gone = || StorageError::NotFound { object: self.store.name_url(&listed.object) };
        self.manifest(&Place::parse(folder).ok_or_else(gone)?).await
    }

    /// The newest checkpoint whose manifest and parts are whole, every byte read and compared with its digest; and the newer ones
    /// that are not, newest first. When the store itself fails this is an error: to go on from an older checkpoint because of a
    /// network fault would throw away good work.
    pub async fn newest_verified(&self) -> Result<(Option<Manifest>, Vec<Skipped>), CheckpointError> {
        let mut skipped = Vec::new();
        for attempt in self.attempts().await?.into_iter().filter(|attempt| attempt.committed) {
            match self.verify(&attempt.place).await {
                Ok(manifest) => return Ok((Some(manifest), skipped)),
                Err(error) if error.is_damage() => {
                    skipped.push(Skipped { name: attempt.place.manifest(), reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, skipped))
    }

    /// The bytes of a part, verified; read a second time before damage is an error.
    pub async fn read_part(&self, part: &Part) -> Result<Bytes, CheckpointError> {
        let bytes = self.store.get(&part.object).await?;
        let Err(error) = self.check_part(part, &bytes) else { return Ok(bytes) };
        tracing::warn!("reading a part again: {error}");
        let bytes = self.store.get(&part.object).await?;
        self.check_part(part, &bytes).map(|()| bytes)
    }

    /// Clears away what the checkpoints that `retention` keeps (the newest two at least) have made superfluous: older checkpoints,
    /// manifest first, and what interrupted saves left. Only what this module has written is touched. Call it after a commit, from the
    /// process that saves. Returns the folders removed.
    pub async fn collect(&self, retention: Retention) -> Result<Vec<String>, CheckpointError> {
        let retention = Retention { last: retention.last.max(LEAST_KEPT), ..retention };
        let mut attempts = Vec::new();
        let mut good_ones = 0;
        for found in self.attempts().await? {
            // Once enough are known to be good, what is older need not be read.
            let good = good_ones < retention.last && found.committed && self.is_good(&found.place).await?;
            good_ones += usize::from(good);
            let judged = retention.best > 0 && found.committed;
            let figure = if judged { self.figure(&found.place).await? } else { None };
            attempts.push(Candidate { found, good, figure });
        }
        let mut removed = Vec::new();
        for attempt in catalogue::expendable(&attempts, retention) {
            self.remove(attempt).await?;
            removed.push(attempt.place.folder());
        }
        Ok(removed)
    }

    /// What a checkpoint may be judged by; nothing if its manifest cannot be read.
    async fn figure(&self, place: &Place) -> Result<Option<f64>, CheckpointError> {
        match self.manifest(place).await {
            Ok(manifest) => Ok(manifest.figure),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn attempts(&self) -> Result<Vec<Found>, CheckpointError> {
        let written = self.store.list("").await?;
        let unfinished = self.store.unfinished("");
        Ok(catalogue::attempts(written.iter().map(|entry| entry.name.as_str()).chain(unfinished.iter().map(String::as_str))))
    }

    async fn is_good(&self, place: &Place) -> Result<bool, CheckpointError> {
        if let Some(good) = self.known.recall(place) {
            return Ok(good);
        }
        match self.verify(place).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the whole checkpoint and remembers the verdict.
    async fn verify(&self, place: &Place) -> Result<Manifest, CheckpointError> {
        let result = self.verify_bytes(place).await;
        match &result {
            Ok(_) => self.known.remember(place.clone(), true),
            Err(error) if error.is_damage() => self.known.remember(place.clone(), false),
            Err(_) => {}
        }
        result
    }

    async fn verify_bytes(&self, place: &Place) -> Result<Manifest, CheckpointError> {
        let manifest = self.manifest(place).await?;
        for part in &manifest.parts {
            self.verify_part(part).await?;
        }
        Ok(manifest)
    }

    /// The manifest of an attempt, verified.
    async fn manifest(&self, place: &Place) -> Result<Manifest, CheckpointError> {
        let name = place.manifest();
        let document = self.store.get(&name).await?;
        let object = self.store.name_url(&name);
        let (manifest, _) = match sealed::open::<Manifest>(&document, VERSION) {
            Ok(opened) => opened,
            Err(reason) => return Err(CheckpointError::Manifest { object, reason }),
        };
        if (manifest.step, manifest.generation) != (place.step, place.generation) {
            let (step, generation) = (manifest.step, manifest.generation);
            return Err(CheckpointError::Misplaced { object, step, generation });
        }
        Ok(manifest)
    }

    /// Digests a part piece by piece: a part may be larger than what is left of the memory.
    async fn verify_part(&self, part: &Part) -> Result<(), CheckpointError> {
        let object = || self.store.name_url(&part.object);
        match self.store.size(&part.object).await? {
            Some(bytes) if bytes == part.bytes => {}
            Some(found) => return Err(StorageError::Size { object: object(), expected: part.bytes, found }.into()),
            None => return Err(StorageError::NotFound { object: object() }.into()),
        }
        let mut hasher = blake3::Hasher::new();
        for start in (0..part.bytes).step_by(VERIFY_BYTES as usize) {
            hasher.update(&self.store.get_range(&part.object, start..part.bytes.min(start + VERIFY_BYTES)).await?);
        }
        self.compare(part, hasher.finalize())
    }

    fn check_part(&self, part: &Part, bytes: &Bytes) -> Result<(), CheckpointError> {
        self.compare(part, blake3::hash(bytes))
    }

    fn compare(&self, part: &Part, found: blake3::Hash) -> Result<(), CheckpointError> {
        let found = found.to_hex();
        if found.as_str() == part.blake3 {
            return Ok(());
        }
        let object = self.store.name_url(&part.object);
        Err(CheckpointError::Corrupt { object, expected: part.blake3.clone(), found: found.to_string() })
    }

    /// The manifest first: a half-removed checkpoint must not look like a whole one.
    async fn remove(&self, attempt: &Found) -> Result<(), CheckpointError> {
        self.store.delete(&attempt.place.manifest()).await?;
        for part in &attempt.parts {
            self.store.delete(part).await?;
        }
        self.store.remove_unfinished(&attempt.place.folder());
        Ok(())
    }
}
