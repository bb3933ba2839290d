//! One attempt to save: parts first, the manifest last.

use bytes::Bytes;

use super::catalogue::{PART_SUFFIX, Place, is_part_name};
use super::store::Known;
use super::{CheckpointError, Manifest, Part, VERSION};
use crate::sealed;
use crate::storage::{StorageError, Store};

/// An attempt to save one step. Dropping it before [`Attempt::commit`] leaves parts that count for nothing and are cleared away by
/// [`collect`](super::CheckpointStore::collect) after a later commit.
pub struct Attempt {
    pub(super) store: Store,
    pub(super) place: Place,
    pub(super) known: Known,
}

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
        self.store
            .put_pieces(&object, pieces, |bytes| {
                hasher.update(bytes);
            })
            .await?;
        Ok(Part { object, name: name.to_owned(), bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }

    /// Makes the parts a checkpoint. Step and generation must be those of the attempt, and every part must be in place in full size.
    pub async fn commit(self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let refused = |reason: String| Err(CheckpointError::Commit { folder: self.store.name_url(&self.place.folder()), reason });
        let Place { step, generation, .. } = self.place;
        if (manifest.step, manifest.generation, manifest.version) != (step, generation, VERSION) {
            return refused(format!(
                "the manifest is for step {}, generation {}, format {}; the attempt for step {step}, generation {generation}, \
                 format {VERSION}",
                manifest.step, manifest.generation, manifest.version
            ));
        }
        for part in &manifest.parts {
            if !part.object.starts_with(&self.place.folder()) {
                return refused(format!("part {} belongs to another attempt", part.object));
            }
            match self.store.size(&part.object).await? {
                Some(bytes) if bytes == part.bytes => {}
                Some(found) => {
                    let object = self.store.name_url(&part.object);
                    return Err(StorageError::Size { object, expected: part.bytes, found }.into());
                }
                None => return Err(StorageError::NotFound { object: self.store.name_url(&part.object) }.into()),
            }
        }
        let object = self.place.manifest();
        let (document, _) =
            sealed::seal(manifest).map_err(|reason| CheckpointError::Manifest { object: self.store.name_url(&object), reason })?;
        self.store.put(&object, document).await?;
        self.known.remember(self.place, true);
        Ok(())
    }
}
