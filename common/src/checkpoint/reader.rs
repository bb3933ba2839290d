//! Parts on their way from a store, piece by piece: digested as they come, and never whole in memory unless somebody wants that.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{CheckpointError, Part};
use crate::storage::{StorageError, Store};

/// Bytes of a piece.
const PIECE: u64 = 8 << 20;
/// Pieces on their way at a time.
const COMING: usize = 3;

/// A part that is being read from its first to its last byte.
pub struct PartReader {
    store: Store,
    part: Part,
    /// Bytes asked for.
    asked: u64,
    coming: VecDeque<JoinHandle<Result<Bytes, StorageError>>>,
    /// Of the pieces before the newest when it is done with that: a thread of its own is as fast as the reader's copying.
    digesting: JoinHandle<blake3::Hasher>,
}

impl PartReader {
    /// Begins to read `part`.
    ///
    /// # Errors
    /// It is not there in full size, or the store fails.
    pub(super) async fn open(store: &Store, part: &Part) -> Result<Self, CheckpointError> {
        let object = store.name_url(&part.object);
        match store.size(&part.object).await? {
            Some(bytes) if bytes == part.bytes => {}
            Some(found) => return Err(StorageError::Size { object, expected: part.bytes, found }.into()),
            None => return Err(StorageError::NotFound { object }.into()),
        }
        let digesting = spawn_blocking(blake3::Hasher::new);
        let mut reader = Self { store: store.clone(), part: part.clone(), asked: 0, coming: VecDeque::new(), digesting };
        (0..COMING).for_each(|_| reader.ask());
        Ok(reader)
    }

    /// The next piece, none at the end. Meanwhile those behind it are fetched.
    ///
    /// # Errors
    /// The store fails, or the part has become shorter.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CheckpointError> {
        let Some(coming) = self.coming.pop_front() else { return Ok(None) };
        let piece = coming.await.map_err(|error| self.lost(error))??;
        self.ask();
        let mut hasher = (&mut self.digesting).await.map_err(|error| self.lost(error))?;
        let seen = piece.clone();
        self.digesting = spawn_blocking(move || {
            hasher.update(&seen);
            hasher
        });
        Ok(Some(piece))
    }

    /// A thread that has ended early.
    fn lost(&self, error: JoinError) -> StorageError {
        let (object, source) = (self.store.name_url(&self.part.object), Box::new(error.into()));
        StorageError::Backend { action: "read", object, source }
    }

    /// What was read up to here must have been the whole part, as it was saved.
    ///
    /// # Errors
    /// It was not.
    pub async fn finish(mut self) -> Result<(), CheckpointError> {
        let hasher = (&mut self.digesting).await.map_err(|error| self.lost(error))?;
        let found = hasher.finalize().to_hex();
        if found.as_str() == self.part.blake3 {
            return Ok(());
        }
        let object = self.store.name_url(&self.part.object);
        Err(CheckpointError::Corrupt { object, expected: self.part.blake3, found: found.to_string() })
    }

    /// The whole part.
    ///
    /// # Errors
    /// Those of [`next`](Self::next) and [`finish`](Self::finish).
    pub(super) async fn whole(mut self) -> Result<Bytes, CheckpointError> {
        let mut whole = Vec::with_capacity(self.part.bytes as usize);
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        self.finish().await.map(|()| whole.into())
    }

    fn ask(&mut self) {
        let range: Range<u64> = self.asked..self.part.bytes.min(self.asked + PIECE);
        if range.is_empty() {
            return;
        }
        self.asked = range.end;
        let (store, object) = (self.store.clone(), self.part.object.clone());
        self.coming.push_back(tokio::spawn(async move { store.get_range_once(&object, range).await }));
    }
}
