//! Looking at checkpoints from outside of a run: what lies where, whether it is whole, what may go. Nothing here is needed to train.

use super::catalogue::{self, Candidate, Found, Retention};
use super::reader::PartReader;
use super::{CheckpointError, CheckpointStore, Listed, Manifest, Part};
use crate::config::BestBy;
use crate::storage::Store;

/// The checkpoints in one place, and what interrupted saves have left there.
#[derive(Clone)]
pub struct Inspector {
    store: Store,
    checkpoints: CheckpointStore,
}

/// An attempt to save, as it lies in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its folder: the same in every store that holds it, and in no other attempt.
    pub folder: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Generation that saved it.
    pub generation: u64,
    /// Whether it was committed; if not, it was interrupted, or is still being written.
    pub committed: bool,
    /// Bytes of all its objects.
    pub bytes: u64,
    found: Found,
}

impl Sighting {
    fn listed(&self) -> Listed {
        Listed { step: self.step, generation: self.generation, object: self.found.place.manifest() }
    }
}

impl Inspector {
    /// Looks at what is in `store`. Nothing is read yet.
    pub fn new(store: Store) -> Self {
        Self { checkpoints: CheckpointStore::new(store.clone()), store }
    }

    /// Where that is, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// The same place as training knows it.
    pub fn checkpoints(&self) -> &CheckpointStore {
        &self.checkpoints
    }

    /// All attempts, newest first, unverified.
    ///
    /// # Errors
    /// The store fails.
    pub async fn sightings(&self) -> Result<Vec<Sighting>, CheckpointError> {
        let entries = self.store.list("").await?;
        let mut sizes: Vec<(String, u64)> = entries.into_iter().map(|entry| (entry.name, entry.size)).collect();
        if let Some(root) = self.store.local_path() {
            let size = |name: String| (root.join(&name).metadata().map_or(0, |metadata| metadata.len()), name);
            sizes.extend(self.store.unfinished("").into_iter().map(size).map(|(bytes, name)| (name, bytes)));
        }
        let attempts = catalogue::attempts(sizes.iter().map(|(name, _)| name.as_str()));
        let sighting = |found: Found| {
            let folder = found.place.folder();
            let inside = sizes.iter().filter(|(name, _)| name.rsplit_once('/').is_some_and(|(parent, _)| parent == folder));
            let bytes = inside.map(|(_, bytes)| bytes).sum();
            let (step, generation, committed) = (found.place.step, found.place.generation, found.committed);
            Sighting { folder, step, generation, committed, bytes, found }
        };
        Ok(attempts.into_iter().map(sighting).collect())
    }

    /// The manifest of a committed attempt, verified.
    ///
    /// # Errors
    /// It is damaged or gone, or the store fails.
    pub async fn manifest(&self, sighting: &Sighting) -> Result<Manifest, CheckpointError> {
        self.checkpoints.open(&sighting.listed()).await
    }

    /// Whether the attempt is still there: a running training clears old ones away.
    ///
    /// # Errors
    /// The store fails.
    pub async fn is_there(&self, sighting: &Sighting) -> Result<bool, CheckpointError> {
        Ok(self.store.size(&sighting.listed().object).await?.is_some())
    }

    /// Reads every byte of a checkpoint's parts and compares it with what was saved. `read` is told how many bytes came since it was
    /// told last.
    ///
    /// # Errors
    /// The first part that is damaged or missing, or a store that fails.
    pub async fn verify(&self, manifest: &Manifest, mut read: impl FnMut(u64)) -> Result<(), CheckpointError> {
        for part in &manifest.parts {
            let mut reader = self.reader(part).await?;
            while let Some(piece) = reader.next().await? {
                read(piece.len() as u64);
            }
            reader.finish().await?;
        }
        Ok(())
    }

    /// Reads a part from its first to its last byte.
    ///
    /// # Errors
    /// It is not there in full size, or the store fails.
    pub async fn reader(&self, part: &Part) -> Result<PartReader, CheckpointError> {
        PartReader::open(&self.store, part).await
    }

    /// What `retention` does not keep (the newest two good ones it keeps in any case), newest first. To know which are good, the newest
    /// ones are read; `read` is told as in [`verify`](Self::verify).
    ///
    /// # Errors
    /// The store fails.
    pub async fn expendable(&self, retention: Retention, mut read: impl FnMut(u64)) -> Result<Vec<Sighting>, CheckpointError> {
        let sightings = self.sightings().await?;
        let mut candidates = Vec::new();
        let mut good_ones = 0;
        for sighting in sightings.iter() {
            let mut candidate = Candidate { found: sighting.found.clone(), good: false, cost: None };
            // Once enough are known to be good, what is older need not be read.
            let wanted = good_ones < retention.last;
            if sighting.committed && (wanted || retention.best > 0) {
                match self.look_at(sighting, wanted, retention.by, &mut read).await {
                    Ok((good, cost)) => (candidate.good, candidate.cost) = (good, cost),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
            good_ones += usize::from(candidate.good);
            candidates.push(candidate);
        }
        let expendable = catalogue::expendable(&candidates, retention);
        let goes = |sighting: &Sighting| expendable.iter().any(|found| found.place == sighting.found.place);
        Ok(sightings.iter().filter(|sighting| goes(sighting)).cloned().collect())
    }

    /// Whether a checkpoint is whole, if that is wanted, and how good it is. One that is damaged still has a cost if its manifest is whole.
    async fn look_at(
        &self,
        sighting: &Sighting,
        wanted: bool,
        by: BestBy,
        read: &mut impl FnMut(u64),
    ) -> Result<(bool, Option<f64>), CheckpointError> {
        let manifest = self.manifest(sighting).await?;
        let cost = manifest.cost(by);
        if !wanted {
            return Ok((false, cost));
        }
        match self.verify(&manifest, read).await {
            Ok(()) => Ok((true, cost)),
            Err(error) if error.is_damage() => Ok((false, cost)),
            Err(error) => Err(error),
        }
    }

    /// Removes an attempt, its manifest first: half of it must not look like a whole one.
    ///
    /// # Errors
    /// The store fails.
    pub async fn remove(&self, sighting: &Sighting) -> Result<(), CheckpointError> {
        self.store.delete(&sighting.found.place.manifest()).await?;
        for part in &sighting.found.parts {
            self.store.delete(part).await?;
        }
        self.store.remove_unfinished(&sighting.folder);
        Ok(())
    }
}
