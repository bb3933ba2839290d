//! One attempt to save: parts first, the manifest last.
//!
//! Several writers may share the parts of an attempt, if they agree on the random number in its name. Each leaves a note of what it has
//! written; one of them gathers the notes and commits. The store is all that they share: nobody waits for anybody while training.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::catalogue::{self, LATEST, PART_SUFFIX, Place, is_part_name, share_name};
use super::known::Known;
use super::{CheckpointError, Manifest, Part, VERSION};
use crate::crash::{self, Point};
use crate::sealed;
use crate::storage::{StorageError, Store};

/// An attempt to save one step. Dropping it before [`Attempt::commit`] leaves parts that count for nothing and are cleared away by
/// [`collect`](super::CheckpointStore::collect) after a later commit.
pub struct Attempt {
    pub(super) store: Store,
    pub(super) place: Place,
    pub(super) known: Known,
    pub(super) fence: Option<Fence>,
}

/// Says whether somebody else has taken over the run meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// Attempts that were there when this generation began: a later generation among them is from before.
    pub(super) before: Arc<HashSet<String>>,
}

/// A writer's note.
#[derive(Debug, Serialize, Deserialize)]
struct Share {
    version: u32,
    parts: Vec<Part>,
    /// Why the writer could not write them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// How soon, and then how often, it is looked whether another writer is done.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// How long what other writers write of an attempt that has failed is waited for.
const LATE_NOTES: Duration = Duration::from_millis(300);

impl Attempt {
    /// Writes a part and returns what the manifest says about it. When this returns, the part survives a power cut. Parts may be
    /// written concurrently.
    pub async fn write_part(&self, name: &str, bytes: Bytes) -> Result<Part, CheckpointError> {
        self.write_pieces(name, vec![bytes]).await
    }

    /// As [`write_part`](Self::write_part), for a part that was never put together. Its digest is taken while it is on its way.
    pub async fn write_pieces(&self, name: &str, pieces: Vec<Bytes>) -> Result<Part, CheckpointError> {
        if !is_part_name(name) {
            return Err(CheckpointError::PartName { name: name.to_owned() });
        }
        let object = format!("{}/{name}{PART_SUFFIX}", self.place.folder());
        let mut hasher = blake3::Hasher::new();
        let seen = |bytes: &[u8]| {
            hasher.update(bytes);
        };
        let written = self.store.put_pieces(&object, pieces, seen).await;
        self.or_fenced(written).await?;
        crash::point(Point::PartWritten);
        Ok(Part { object, name: name.to_owned(), bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }

    /// Says that writer number `writer` has written `parts`.
    ///
    /// # Errors
    /// The store fails.
    pub async fn write_share(&self, writer: usize, parts: Vec<Part>) -> Result<(), CheckpointError> {
        self.note(writer, Share { version: VERSION, parts, failure: None }).await?;
        crash::point(Point::ShareWritten);
        Ok(())
    }

    /// Says that writer number `writer` will not write its parts, so that nobody waits for them.
    ///
    /// # Errors
    /// The store fails.
    pub async fn write_failure(&self, writer: usize, reason: String) -> Result<(), CheckpointError> {
        self.note(writer, Share { version: VERSION, parts: Vec::new(), failure: Some(reason) }).await
    }

    async fn note(&self, writer: usize, share: Share) -> Result<(), CheckpointError> {
        let object = self.share(writer);
        let refused = |reason| CheckpointError::Manifest { object: self.store.name_url(&object), reason };
        let (document, _) = sealed::seal(&share).map_err(refused)?;
        let written = self.store.put(&object, document).await;
        self.or_fenced(written).await
    }

    /// The parts that all of `writers` writers have written. Waits for them until `give_up` says that this has taken too long.
    ///
    /// # Errors
    /// The store fails, a writer has failed, or one is not done in time.
    pub async fn gather(&self, writers: usize, give_up: impl Fn(Duration) -> bool) -> Result<Vec<Part>, CheckpointError> {
        let started = Instant::now();
        let mut parts = Vec::new();
        for writer in 0..writers {
            let object = self.share(writer);
            let [mut pause, longest] = LOOK_AGAIN;
            let document = loop {
                match self.store.get(&object).await {
                    Ok(document) => break document,
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    Err(_) if give_up(started.elapsed()) => {
                        let (object, waited) = (self.store.name_url(&object), started.elapsed());
                        return Err(CheckpointError::Late { writer, object, waited });
                    }
                    Err(_) => tokio::time::sleep(pause).await,
                }
                if pause == longest {
                    // Whoever has taken over clears away what this attempt has written, notes too.
                    self.check_fence().await?;
                }
                pause = longest.min(pause * 5 / 4);
            };
            let refused = |reason| CheckpointError::Manifest { object: self.store.name_url(&object), reason };
            let share = sealed::open::<Share>(&document, VERSION..=VERSION).map_err(refused)?.0;
            if let Some(reason) = share.failure {
                return Err(CheckpointError::Writer { writer, reason });
            }
            parts.extend(share.parts);
            crash::point(Point::Gathering);
        }
        Ok(parts)
    }

    /// Removes the parts of these names as far as they were written: they will never be complete, and take room.
    ///
    /// # Errors
    /// The store fails.
    pub async fn withdraw(&self, names: impl Iterator<Item = &str>) -> Result<(), CheckpointError> {
        let mut failure = None;
        for name in names {
            let deleted = self.store.delete(&format!("{}/{name}{PART_SUFFIX}", self.place.folder())).await;
            failure = failure.or(deleted.err());
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Removes what this attempt of `writers` writers has written: it will never be a checkpoint, and takes room. Not after a commit that
    /// may have succeeded. The others may still be writing, and have room now: for a moment their notes are waited for. What comes even
    /// later stays for [`collect`](super::CheckpointStore::collect).
    ///
    /// # Errors
    /// The store fails.
    pub async fn abandon(&self, writers: usize) -> Result<(), CheckpointError> {
        let started = Instant::now();
        let mut writing: HashSet<String> = (1..writers).map(|writer| self.share(writer)).collect();
        loop {
            // A note is the last that its writer writes, but may be found before what came just ahead of it.
            let last = writing.is_empty() || started.elapsed() > LATE_NOTES;
            for entry in self.store.list(&self.place.folder()).await? {
                self.store.delete(&entry.name).await?;
                writing.remove(&entry.name);
            }
            if last {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN[0]).await;
        }
    }

    fn share(&self, writer: usize) -> String {
        format!("{}/{}", self.place.folder(), share_name(writer))
    }

    /// Makes the parts a checkpoint. Step and generation must be those of the attempt, and every part must be in place in full size.
    pub async fn commit(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let refused = |reason: String| Err(CheckpointError::Commit { folder: self.store.name_url(&self.place.folder()), reason });
        let Place { step, generation, .. } = self.place;
        if (manifest.step, manifest.generation, manifest.version) != (step, generation, VERSION) {
            return refused(format!(
                "the manifest is for step {}, generation {}, format {}; the attempt for step {step}, generation {generation}, \
                 format {VERSION}",
                manifest.step, manifest.generation, manifest.version
            ));
        }
        if let Some(part) = manifest.parts.iter().find(|part| !part.object.starts_with(&self.place.folder())) {
            return refused(format!("part {} belongs to another attempt", part.object));
        }
        self.check_fence().await?;
        for part in &manifest.parts {
            let checked = self.check_part(part).await;
            self.or_fenced(checked).await?;
        }
        let object = self.place.manifest();
        let (document, _) =
            sealed::seal(manifest).map_err(|reason| CheckpointError::Manifest { object: self.store.name_url(&object), reason })?;
        // The folders may be new, and not this module's.
        self.known.anchor_once(&self.store)?;
        crash::point(Point::BeforeManifest);
        self.store.put_new(&object, document).await?;
        crash::point(Point::AfterManifest);
        self.known.remember(&self.place, true);
        self.point_to_it().await;
        crash::point(Point::AfterLatest);
        Ok(())
    }

    /// That a part is in place in full size.
    async fn check_part(&self, part: &Part) -> Result<(), StorageError> {
        let object = self.store.name_url(&part.object);
        match self.store.size(&part.object).await? {
            Some(bytes) if bytes == part.bytes => Ok(()),
            Some(found) => Err(StorageError::Size { object, expected: part.bytes, found }),
            None => Err(StorageError::NotFound { object }),
        }
    }

    /// A failure, or the reason for it: whoever has taken over clears away what this attempt has written and is writing.
    async fn or_fenced<T>(&self, result: Result<T, StorageError>) -> Result<T, CheckpointError> {
        if result.is_err() {
            self.check_fence().await?;
        }
        Ok(result?)
    }

    /// That no later generation has begun to save meanwhile: then this one is a leftover, and must not commit any more.
    async fn check_fence(&self) -> Result<(), CheckpointError> {
        let Some(fence) = &self.fence else { return Ok(()) };
        let entries = self.store.list("").await?;
        let attempts = catalogue::attempts(entries.iter().map(|entry| entry.name.as_str()));
        let later = attempts
            .into_iter()
            .map(|found| found.place)
            .find(|place| place.generation > self.place.generation && !fence.before.contains(&place.folder()));
        match later {
            None => Ok(()),
            Some(place) => Err(CheckpointError::Fenced {
                folder: self.store.name_url(&place.folder()),
                own: self.place.generation,
                other: place.generation,
            }),
        }
    }

    /// For people: the name of the newest checkpoint. Nothing depends on it, so it may fail.
    async fn point_to_it(&self) {
        if let Err(error) = self.store.put(LATEST, format!("{}\n", self.place.folder()).into()).await {
            tracing::warn!("{error}");
        }
    }
}
