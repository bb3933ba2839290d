//! Where a run's checkpoints lie: find the newest good one, read it, clear old ones away.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue::{self, Candidate, Found, LATEST, OWNER, Place, Retention};
use super::known::Known;
use super::reader::PartReader;
use super::{Attempt, CheckpointError, Fence, Manifest, Part, VERSION};
use crate::config::BestBy;
use crate::crash::{self, Point};
use crate::sealed;
use crate::storage::{StorageError, Store};

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

impl CheckpointStore {
    /// The checkpoints in `store`. Nothing is read or written.
    pub fn new(store: Store) -> Self {
        Self { store, known: Known::default() }
    }

    /// Where the checkpoints are, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// Makes this the place of the checkpoints of the run `own`, if it is nobody's yet. Whoever saves calls this once before: two runs
    /// in one place would clear away each other's checkpoints.
    ///
    /// # Errors
    /// It is another run's, or the store fails.
    pub async fn claim(&self, own: &str) -> Result<(), CheckpointError> {
        let found = match self.store.get(OWNER).await {
            Err(error) if error.is_not_found() => {
                let claimed = self.store.put_new(OWNER, format!("{own}\n").into()).await;
                let Err(error) = claimed else { return Ok(()) };
                // Another run may have been faster.
                self.store.get(OWNER).await.map_err(|_| error)?
            }
            found => found?,
        };
        let found = String::from_utf8_lossy(&found).trim_end().to_owned();
        if found == own {
            return Ok(());
        }
        Err(CheckpointError::Owner { url: self.url().to_owned(), found, own: own.to_owned() })
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

    /// Takes note that somebody has read the whole checkpoint and found it `good` or not, so that it need not be read for
    /// [`collect`](Self::collect), nor be counted among the good ones because it once was.
    pub fn judge(&self, manifest: &Manifest, good: bool) {
        let folders = manifest.parts.iter().filter_map(|part| part.object.rsplit_once('/'));
        if let Some(place) = folders.filter_map(|(folder, _)| Place::parse(folder)).next() {
            self.known.remember(&place, good);
        }
    }

    /// Copies the newest checkpoint to `other`, if that has none as new. Returns the step of what was copied.
    ///
    /// # Errors
    /// One of the stores fails, or the checkpoint is damaged.
    pub async fn bring_up_to_date(&self, other: &Self) -> Result<Option<u64>, CheckpointError> {
        let newest = |attempts: Vec<Found>| attempts.into_iter().map(|found| (found.committed, found.place)).find(|(is, _)| *is);
        let Some((_, place)) = newest(self.attempts().await?) else { return Ok(None) };
        if newest(other.attempts().await?).is_some_and(|(_, there)| there.step >= place.step) {
            return Ok(None);
        }
        let manifest = self.manifest(&place).await?;
        for part in &manifest.parts {
            other.store.put(&part.object, self.read_part(part).await?).await?;
        }
        let object = place.manifest();
        other.known.anchor_once(&other.store)?;
        other.store.put_new(&object, self.store.get(&object).await?).await?;
        other.known.remember(&place, true);
        Ok(Some(place.step))
    }

    /// The bytes of a part, verified; read a second time before damage is an error.
    pub async fn read_part(&self, part: &Part) -> Result<Bytes, CheckpointError> {
        match self.reader(part).await?.whole().await {
            Err(error @ CheckpointError::Corrupt { .. }) => {
                tracing::warn!("reading a part again: {error}");
                self.reader(part).await?.whole().await
            }
            read => read,
        }
    }

    /// Reads a part from its first to its last byte.
    ///
    /// # Errors
    /// It is not there in full size, or the store fails.
    pub async fn reader(&self, part: &Part) -> Result<PartReader, CheckpointError> {
        PartReader::open(&self.store, part).await
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
            let cost = if judged { self.cost(&found, retention.by).await? } else { None };
            attempts.push(Candidate { found, good, cost });
        }
        let mut removed = Vec::new();
        for attempt in catalogue::expendable(&attempts, retention) {
            self.remove(attempt).await?;
            removed.push(attempt.place.folder());
        }
        for object in [LATEST, OWNER] {
            self.store.remove_unfinished_of(object);
        }
        Ok(removed)
    }

    /// How good a checkpoint is by `by`, the smaller the better; nothing if its manifest cannot be read or it is not whole, as far as is known: it must not
    /// take the place of one that is.
    async fn cost(&self, found: &Found, by: BestBy) -> Result<Option<f64>, CheckpointError> {
        let place = &found.place;
        if self.known.recall(place) == Some(false) {
            return Ok(None);
        }
        if let Some(cost) = self.known.cost(place, by) {
            return Ok(cost);
        }
        let cost = match self.manifest(place).await {
            Ok(manifest) if manifest.parts.iter().all(|part| found.parts.contains(&part.object)) => manifest.cost(by),
            Ok(_) => None,
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        self.known.remember_cost(place, by, cost);
        Ok(cost)
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
            Ok(_) => self.known.remember(place, true),
            Err(error) if error.is_damage() => self.known.remember(place, false),
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
        let (manifest, _) = match sealed::open::<Manifest>(&document, VERSION..=VERSION) {
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
        let mut reader = self.reader(part).await?;
        while reader.next().await?.is_some() {}
        reader.finish().await
    }

    /// The manifest first, and for good: a half-removed checkpoint must not look like a whole one.
    async fn remove(&self, attempt: &Found) -> Result<(), CheckpointError> {
        let folder = attempt.place.folder();
        if attempt.committed {
            self.store.delete(&attempt.place.manifest()).await?;
            self.store.sync_deletions(&folder);
            crash::point(Point::ManifestDeleted);
        }
        for part in &attempt.parts {
            self.store.delete(part).await?;
            crash::point(Point::PartDeleted);
        }
        self.store.remove_unfinished(&folder);
        self.known.forget(&attempt.place);
        Ok(())
    }
}
