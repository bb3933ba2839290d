//! One door to every place that holds objects: a local folder, a bucket of S3, Google or Azure, memory.
//!
//! A [`Store`] is a URL and everything below it. Writes replace whole objects atomically and, on local disks, are synced before they
//! count as done. Reads check the length of what came back: object stores return short ranges without an error. Digests are the
//! business of the callers ([`crate::shards`], [`crate::checkpoint`]): no store verifies what it returns.

mod direct;
mod error;
#[cfg(test)]
pub(crate) mod faulty;
mod local;
mod pattern;
mod refusal;
mod remote;
#[cfg(test)]
mod tests;

pub use direct::{BLOCK, aligned};
pub use error::StorageError;
pub use pattern::Pattern;
pub use refusal::Refusal;

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use error::{errno, knows_no_create};
use remote::Cloud;

/// Objects larger than this are uploaded in parts: a single PUT ends at 5 GiB and restarts from zero after a fault.
const WHOLE_PUT: usize = 32 << 20;
/// Local files of this size or more are written past the page cache.
const DIRECT: usize = 256 << 10;
/// Smallest size of an uploaded part.
const PART: usize = 16 << 20;
/// Most parts of one upload (the limit of S3).
const MAX_PARTS: usize = 10_000;
/// How often what backends try only once is tried: to create and to delete objects; and how soon again.
const ATTEMPTS: usize = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Parts of one upload in flight.
const PARTS_IN_FLIGHT: usize = 4;

/// An object found by [`Store::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name relative to the store, with `/` between folders.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// A folder of objects at a URL. Cheap to clone; clones share connections (and, for `memory://`, the objects).
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    local: Option<PathBuf>,
}

impl Store {
    /// Opens a plain path, `file:///PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `memory://`. Nothing is
    /// read or written: a local folder comes into being with its first object. The clouds take credentials, region and end point from the
    /// `AWS_*`, `GOOGLE_*` and `AZURE_*` environment. Each `memory://` is a fresh, empty store of its own.
    pub fn open(url: &str) -> Result<Self, StorageError> {
        let refused = |reason: String| StorageError::Url { url: url.to_owned(), reason };
        let Some((scheme, rest)) = url.split_once("://") else { return Self::open_local(url, FilePath::new(url)) };
        match scheme {
            "file" => {
                let parsed = url::Url::parse(url).map_err(|error| refused(error.to_string()))?;
                let path = parsed.to_file_path().map_err(|()| refused("names no absolute local path".into()))?;
                Self::open_local(url, &path)
            }
            "memory" => {
                let prefix = Path::parse(rest.trim_matches('/')).map_err(|error| refused(error.to_string()))?;
                let url = url.trim_end_matches('/').to_owned();
                Ok(Self { backend: Arc::new(InMemory::new()), prefix, url, local: None })
            }
            _ => {
                let cloud = Cloud::of(scheme).ok_or_else(|| refused(format!("unknown scheme {scheme}://")))?;
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(refused(format!("names no {}", cloud.bucket())));
                }
                let backend = cloud.connect(bucket).map_err(|error| refused(error.to_string()))?;
                let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| refused(error.to_string()))?;
                Ok(Self { backend, prefix, url: url.trim_end_matches('/').to_owned(), local: None })
            }
        }
    }

    fn open_local(url: &str, path: &FilePath) -> Result<Self, StorageError> {
        let refused = |reason: String| StorageError::Url { url: url.to_owned(), reason };
        if url.is_empty() {
            return Err(refused("the URL is empty".into()));
        }
        let path = local::absolute(path).map_err(|error| refused(error.to_string()))?;
        let prefix = Path::from_absolute_path(&path).map_err(|error| refused(error.to_string()))?;
        let backend = LocalFileSystem::new().with_fsync(true);
        Ok(Self { backend: Arc::new(backend), prefix, url: path.display().to_string(), local: Some(path) })
    }

    /// The store of a folder inside this one.
    pub fn child(&self, folder: &str) -> Self {
        let parts = folder.split('/').filter(|part| !part.is_empty());
        let mut child = self.clone();
        for part in parts {
            child.prefix = child.prefix.join(part);
            child.url = format!("{}/{part}", child.url.trim_end_matches('/'));
            child.local = child.local.map(|path| path.join(part));
        }
        child
    }

    /// Where this store is: an absolute path for local folders, else the URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where an object is, for messages.
    pub fn name_url(&self, name: &str) -> String {
        format!("{}/{name}", self.url.trim_end_matches('/'))
    }

    /// The folder, when the store is a local one.
    pub fn local_path(&self) -> Option<PathBuf> {
        self.local.clone()
    }

    /// The whole object.
    pub async fn get(&self, name: &str) -> Result<Bytes, StorageError> {
        let path = self.path(name)?;
        let result = self.backend.get(&path).await.map_err(|error| self.failed("read", name, error))?;
        let expected = result.meta.size;
        let bytes = result.bytes().await.map_err(|error| self.failed("read", name, error))?;
        self.check_size(name, expected, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// The bytes `range` of the object, exactly; an object that ends earlier is a [`StorageError::Size`].
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(name)?;
        match self.backend.get_range(&path, range.clone()).await {
            Ok(bytes) => self.check_size(name, range.end, range.start + bytes.len() as u64).map(|()| bytes),
            Err(error) => {
                let error = self.failed("read", name, error);
                if error.is_refusal() {
                    return Err(error);
                }
                // Stores word a range beyond the end in different ways, so the size tells.
                match self.size(name).await {
                    Ok(Some(found)) if found < range.end => Err(self.wrong_size(name, range.end, found)),
                    _ => Err(error),
                }
            }
        }
    }

    /// As [`get_range`](Self::get_range), for large ranges that are read once: a local file is read past the page cache.
    pub async fn get_range_once(&self, name: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let Some(root) = &self.local else { return self.get_range(name, range).await };
        self.path(name)?;
        match direct::get_range(root.join(name), range.clone()).await {
            Ok(bytes) => self.check_size(name, range.end, range.start + bytes.len() as u64).map(|()| bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StorageError::NotFound { object: self.name_url(name) })
            }
            Err(error) => {
                Err(self.failed("read", name, object_store::Error::Generic { store: "LocalFileSystem", source: error.into() }))
            }
        }
    }

    /// Writes the object, replacing an older one at once or not at all. When this returns, the object survives a power cut.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.put_pieces(name, vec![bytes], |_| ()).await
    }

    /// As [`put`](Self::put), for an object that must not be there yet. Stores that know conditional writes make sure of that; elsewhere
    /// it is the caller's word. An object with the same content passes: the answer to an earlier attempt may have been lost.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<(), StorageError> {
        let path = self.path(name)?;
        let mut attempts_left = ATTEMPTS;
        loop {
            attempts_left -= 1;
            let options = PutOptions::from(PutMode::Create);
            let error = match self.backend.put_opts(&path, bytes.clone().into(), options).await {
                Ok(_) => return Ok(()),
                Err(error) if knows_no_create(&error) => return self.put(name, bytes).await,
                Err(error) => error,
            };
            if Refusal::of(&error).is_some() {
                return Err(self.failed("write", name, error));
            }
            // Whatever was answered, what lies there now decides.
            let there = self.get(name).await;
            if there.as_ref().is_ok_and(|there| *there == bytes) {
                return Ok(());
            }
            // Backends do not try again what may have been done, nor what a store refuses because of a competitor that is none; but two
            // attempts to write the same are none.
            let again = self.local.is_none() && there.is_err_and(|error| error.is_not_found()) && attempts_left > 0;
            if !again {
                return Err(self.failed("write", name, error));
            }
            self.pause_after(name, &error).await;
        }
    }

    /// Writes the object from the pieces that it is made of, as [`put`](Self::put) does, without putting them together first. `seen` is
    /// shown every byte once and in order, while those before it are on their way.
    pub async fn put_pieces(&self, name: &str, pieces: Vec<Bytes>, mut seen: impl FnMut(&[u8])) -> Result<(), StorageError> {
        let path = self.path(name)?;
        let total: usize = pieces.iter().map(Bytes::len).sum();
        if let Some(root) = self.local.as_ref().filter(|_| total >= DIRECT) {
            let source = match direct::put(root.join(name), &pieces, &mut seen).await {
                Ok(()) => return Ok(()),
                Err(error) => error.into(),
            };
            return Err(self.failed("write", name, object_store::Error::Generic { store: "LocalFileSystem", source }));
        }
        let written = if total > WHOLE_PUT {
            self.put_in_parts(&path, pieces, total, &mut seen).await
        } else {
            pieces.iter().for_each(|piece| seen(piece));
            self.backend.put(&path, pieces.into_iter().collect()).await.map(drop)
        };
        written.map_err(|error| self.failed("write", name, error))
    }

    async fn put_in_parts(
        &self,
        path: &Path,
        pieces: Vec<Bytes>,
        total: usize,
        seen: &mut impl FnMut(&[u8]),
    ) -> object_store::Result<()> {
        let mut upload = self.backend.put_multipart(path).await?;
        let parts = regroup(pieces, PART.max(total.div_ceil(MAX_PARTS)));
        // Each part is handed to the backend before it is looked at, so that both happen at once.
        let parts = parts.into_iter().map(|part| {
            let written = tokio::spawn(upload.put_part(part.clone().into_iter().collect()));
            part.iter().for_each(|piece| seen(piece));
            written.map(|joined| joined.unwrap_or_else(|error| Err(error.into())))
        });
        match futures::stream::iter(parts).buffer_unordered(PARTS_IN_FLIGHT).try_collect::<()>().await {
            Ok(()) => upload.complete().await.map(drop),
            Err(error) => {
                // Parts of an upload that nobody aborts stay billed; the first error is the one to report.
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(object = %path, "could not abort an upload: {abort}");
                }
                Err(error)
            }
        }
    }

    /// All objects in `folder` ("" for the whole store) and the folders below it, sorted by name. A missing folder is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>, StorageError> {
        let prefix = self.child(folder).prefix;
        let found: Result<Vec<_>, _> = self.backend.list(Some(&prefix)).try_collect().await;
        let found = match found.map_err(|error| self.failed("list", folder, error)) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        let relative =
            |path: &Path| Some(path.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>());
        let mut entries: Vec<_> = found
            .iter()
            .filter_map(|object| Some(Entry { name: relative(&object.location)?.join("/"), size: object.size }))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The object's size in bytes, or `None` when there is no such object.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        match self.backend.head(&self.path(name)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    /// Removes the object, and on local disks the folders inside this store that become empty. Removing what is not there is no error.
    pub async fn delete(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name)?;
        let mut attempts_left = ATTEMPTS;
        loop {
            attempts_left -= 1;
            match self.backend.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => break,
                // Backends do not delete again what may be deleted already.
                Err(error) if self.local.is_none() && attempts_left > 0 && Refusal::of(&error).is_none() => {
                    self.pause_after(name, &error).await;
                }
                Err(error) => return Err(self.failed("delete", name, error)),
            }
        }
        if let Some(root) = &self.local {
            local::remove_empty_parents(root, name);
        }
        Ok(())
    }

    /// What interrupted local writes left behind in `folder` and below: names such as `NAME#1`, which no other method shows.
    pub fn unfinished(&self, folder: &str) -> Vec<String> {
        self.local.as_ref().map(|root| local::unfinished(root, &root.join(folder))).unwrap_or_default()
    }

    /// Removes what [`Self::unfinished`] shows. Only for folders in which nobody is writing.
    pub fn remove_unfinished(&self, folder: &str) {
        let Some(root) = &self.local else { return };
        for name in self.unfinished(folder) {
            match std::fs::remove_file(root.join(&name)) {
                Ok(()) => local::remove_empty_parents(root, &name),
                Err(error) => tracing::warn!("could not remove {}: {error}", self.name_url(&name)),
            }
        }
    }

    /// Removes what interrupted writes of one object have left beside it. Only for objects that nobody is writing.
    pub fn remove_unfinished_of(&self, name: &str) {
        let Some(root) = &self.local else { return };
        for staged in local::staged(root, name) {
            if let Err(error) = std::fs::remove_file(root.join(&staged)) {
                tracing::warn!("could not remove {}: {error}", self.name_url(&staged));
            }
        }
    }

    /// Makes the way to a local folder survive a power cut: the folder itself, and its name in every folder above. Objects need that
    /// besides what writing them makes durable, when somebody else has made those folders.
    pub fn anchor(&self) -> Result<(), StorageError> {
        let Some(root) = &self.local else { return Ok(()) };
        let failed = |source: std::io::Error| {
            let source = object_store::Error::Generic { store: "local", source: source.into() };
            StorageError::Backend { action: "sync", object: self.url.clone(), source: Box::new(source) }
        };
        std::fs::create_dir_all(root).map_err(failed)?;
        local::sync(root).map_err(failed)?;
        for folder in root.ancestors().skip(1) {
            // Folders of others may be closed to this user, and were there before the run.
            if let Err(error) = local::sync(folder) {
                tracing::debug!("{}: {error}", folder.display());
            }
        }
        Ok(())
    }

    /// Makes deletions in a local folder survive a power cut.
    pub fn sync_deletions(&self, folder: &str) {
        let Some(root) = &self.local else { return };
        match local::sync(&root.join(folder)) {
            // A folder that became empty is gone, and what was in it with it.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("could not sync {}: {error}", self.name_url(folder));
            }
            _ => {}
        }
    }

    async fn pause_after(&self, name: &str, error: &object_store::Error) {
        tracing::warn!("{} once more: {error}", self.name_url(name));
        tokio::time::sleep(AGAIN_AFTER).await;
    }

    fn path(&self, name: &str) -> Result<Path, StorageError> {
        let refused = |reason: String| StorageError::Name { object: self.name_url(name), reason };
        let path = Path::parse(name).map_err(|error| refused(error.to_string()))?;
        if name.is_empty() || local::is_unfinished(name) {
            // The local backend writes through such names and hides them.
            return Err(refused("it is empty or ends in '#' and digits".into()));
        }
        Ok(self.prefix.parts().chain(path.parts()).collect())
    }

    fn check_size(&self, name: &str, expected: u64, found: u64) -> Result<(), StorageError> {
        if expected == found { Ok(()) } else { Err(self.wrong_size(name, expected, found)) }
    }

    fn wrong_size(&self, name: &str, expected: u64, found: u64) -> StorageError {
        StorageError::Size { object: self.name_url(name), expected, found }
    }

    fn failed(&self, action: &'static str, name: &str, error: object_store::Error) -> StorageError {
        if let Some(refusal) = Refusal::of(&error) {
            return StorageError::Refused { action, object: self.name_url(name), refusal };
        }
        match error {
            object_store::Error::NotFound { .. } => StorageError::NotFound { object: self.name_url(name) },
            error if matches!(errno(&error), Some(local::ENOSPC | local::EDQUOT)) => {
                StorageError::Full { object: self.name_url(name), quota: errno(&error) == Some(local::EDQUOT) }
            }
            error => StorageError::Backend { action, object: self.name_url(name), source: Box::new(error) },
        }
    }
}

/// The same bytes in parts of `size`, the last one smaller, each made of slices of the pieces.
fn regroup(pieces: Vec<Bytes>, size: usize) -> Vec<Vec<Bytes>> {
    let mut parts: Vec<Vec<Bytes>> = Vec::new();
    let mut room = 0;
    for mut piece in pieces {
        while !piece.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = size;
            }
            let slice = piece.split_to(room.min(piece.len()));
            room -= slice.len();
            parts.last_mut().into_iter().for_each(|part| part.push(slice.clone()));
        }
    }
    parts
}

/// The URL alone: the backend's own form is long and holds the settings of the connection.
impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Store").field(&self.url).finish()
    }
}
