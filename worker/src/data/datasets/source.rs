//! Where a published data set lies: a folder or a single file, on a disk or in an object store, read in pieces.

use super::ImportError;
use bytes::Bytes;
use common::storage::{Entry, Pattern, Store};
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Endings of names that stand for one file, where a URL cannot be asked.
const FILES: [&str; 6] = [".zip", ".tar", ".tar.gz", ".tgz", ".tfrecord", ".tfrecords"];
/// Bytes that are read ahead after a jump, and at most, when one read follows the other.
const FIRST_WINDOW: u64 = 64 << 10;
const LAST_WINDOW: u64 = 8 << 20;
/// Files of an object store that are read at the same time.
const IN_FLIGHT: usize = 16;
/// So many bytes of an object cost less than one more request: a read that is not farther ahead follows the one before.
const HOP: u64 = 512 << 10;

/// A folder of files, or one file of it, or those that a pattern names.
pub(super) struct Source {
    store: Store,
    file: Option<String>,
    pattern: Option<Pattern>,
    runtime: Handle,
}

impl Source {
    /// Opens a path or URL. A URL names a file if it ends like an archive or a TFRecord file.
    pub(super) fn open(url: &str, runtime: &Handle) -> Result<Self, ImportError> {
        let url = url.trim_end_matches('/');
        let runtime = runtime.clone();
        let store = Store::open(url)?;
        if let Some((folder, pattern)) = Pattern::split(url).filter(|_| !store.local_path().is_some_and(|path| path.exists())) {
            return Ok(Self { store: Store::open(folder)?, file: None, pattern: Some(pattern), runtime });
        }
        let is_file = match store.local_path() {
            Some(path) if !path.exists() => return Err(ImportError::Missing { file: url.to_owned() }),
            Some(path) => path.is_file(),
            None => FILES.iter().any(|ending| url.ends_with(ending)),
        };
        match store.url().rsplit_once('/') {
            Some((folder, file)) if is_file => {
                let folder = if folder.is_empty() { "/" } else { folder };
                Ok(Self { store: Store::open(folder)?, file: Some(file.to_owned()), pattern: None, runtime })
            }
            _ => Ok(Self { store, file: None, pattern: None, runtime }),
        }
    }

    /// Where it is, for messages.
    pub(super) fn url(&self) -> String {
        self.file.as_ref().map_or_else(|| self.store.url().to_owned(), |file| self.store.name_url(file))
    }

    /// Where one file of it is, for messages.
    pub(super) fn name_url(&self, name: &str) -> String {
        self.store.name_url(name)
    }

    /// All files, at any depth, sorted by name.
    pub(super) fn list(&self) -> Result<Vec<Entry>, ImportError> {
        let found = match (&self.file, self.store.local_path()) {
            (Some(file), _) => {
                let size = self.runtime.block_on(self.store.size(file))?;
                let size = size.ok_or_else(|| ImportError::Missing { file: self.name_url(file) })?;
                vec![Entry { name: file.clone(), size }]
            }
            (None, Some(path)) => {
                let mut entries = Vec::new();
                walk(&path, "", &mut entries)?;
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                entries
            }
            (None, None) => self.runtime.block_on(self.store.list(""))?,
        };
        let missing = |name: String| ImportError::Missing { file: self.name_url(&name) };
        match &self.pattern {
            Some(pattern) => pattern.select(found).map_err(missing),
            None => Ok(found),
        }
    }

    /// A whole file.
    pub(super) fn read(&self, name: &str) -> Result<Bytes, ImportError> {
        match self.store.local_path() {
            Some(path) => {
                let bytes = fs::read(path.join(name)).map_err(|error| ImportError::of_io(&self.name_url(name), error))?;
                Ok(bytes.into())
            }
            None => Ok(self.runtime.block_on(self.store.get(name))?),
        }
    }

    /// Whole files, several at a time.
    pub(super) fn read_all(&self, names: &[&str]) -> Result<Vec<Bytes>, ImportError> {
        if self.store.local_path().is_some() {
            return names.par_iter().map(|name| self.read(name)).collect();
        }
        let reads = futures::stream::iter(names.iter().map(|name| self.store.get(name)));
        Ok(self.runtime.block_on(reads.buffered(IN_FLIGHT).try_collect())?)
    }

    /// A file to be read in pieces.
    pub(super) fn reader(&self, entry: &Entry) -> Result<PieceReader, ImportError> {
        let file: Arc<str> = self.name_url(&entry.name).into();
        let origin = match self.store.local_path() {
            Some(path) => {
                let opened = File::open(path.join(&entry.name)).map_err(|error| ImportError::of_io(&file, error))?;
                Origin::Disk(Arc::new(opened))
            }
            None => Origin::Store { store: self.store.clone(), name: entry.name.as_str().into(), runtime: self.runtime.clone() },
        };
        Ok(PieceReader { origin, file, size: entry.size, position: 0, window: Bytes::new(), window_start: 0, ahead: FIRST_WINDOW })
    }
}

/// Adds the files below `folder`, named relative to the source.
fn walk(folder: &Path, prefix: &str, entries: &mut Vec<Entry>) -> Result<(), ImportError> {
    let failed = |path: &Path| {
        let file = path.display().to_string();
        move |error| ImportError::of_io(&file, error)
    };
    let mut folders: Vec<(PathBuf, String)> = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let path = entry.path();
        // What is not Unicode is no name of any published file.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        // Links are followed.
        let about = fs::metadata(&path).map_err(failed(&path))?;
        if about.is_dir() {
            folders.push((path, format!("{name}/")));
        } else {
            entries.push(Entry { name, size: about.len() });
        }
    }
    folders.iter().try_for_each(|(path, prefix)| walk(path, prefix, entries))
}

#[derive(Clone)]
enum Origin {
    Disk(Arc<File>),
    Store { store: Store, name: Arc<str>, runtime: Handle },
}

/// One file, as a reader that can seek. Clones have positions of their own.
#[derive(Clone)]
pub(super) struct PieceReader {
    origin: Origin,
    file: Arc<str>,
    size: u64,
    position: u64,
    window: Bytes,
    window_start: u64,
    ahead: u64,
}

impl PieceReader {
    /// Where the file is, for messages.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that cost less to read than to pass over.
    pub(super) fn hop(&self) -> u64 {
        if matches!(self.origin, Origin::Disk(_)) { 0 } else { HOP }
    }

    /// The bytes `range`, exactly.
    pub(super) fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.origin {
            Origin::Disk(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            Origin::Store { store, name, runtime } => runtime.block_on(store.get_range(name, range)).map_err(io::Error::other),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let within = self.position.wrapping_sub(self.window_start);
        if self.position < self.window_start || within >= self.window.len() as u64 {
            if self.position >= self.size {
                return Ok(0);
            }
            let near = self.window.len() as u64..=self.window.len() as u64 + self.hop();
            let follows = !self.window.is_empty() && near.contains(&within);
            self.ahead = if follows { (2 * self.ahead).min(LAST_WINDOW) } else { FIRST_WINDOW };
            self.window = self.piece(self.position..(self.position + self.ahead).min(self.size))?;
            self.window_start = self.position;
        }
        let rest = &self.window[(self.position - self.window_start) as usize..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for PieceReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::datasets::files::Files;
    use crate::data::datasets::testing;
    use tokio::runtime::Runtime;

    /// An object store has no files to seek in, only ranges.
    #[test]
    fn files_in_an_object_store_are_read_by_ranges() {
        let runtime = Runtime::new().unwrap();
        let content: testing::Content = (0..40).map(|i| (format!("{i:02}.png"), vec![i; 50_000 * usize::from(i) + 1])).collect();
        let packed = |name: &str, bytes| vec![(name.to_owned(), bytes), ("readme.txt".into(), b"words".to_vec())];
        for objects in [packed("images.zip", testing::zip(&content)), packed("images.tar", testing::tar(&content)), content.clone()]
        {
            let store = Store::open("memory://bucket").unwrap().child("some");
            for (name, bytes) in objects {
                runtime.block_on(store.put(&name, bytes.into())).unwrap();
            }
            let source = Source { store, file: None, pattern: None, runtime: runtime.handle().clone() };
            let mut files = Files::open(source).unwrap();
            assert_eq!(files.entries().len(), 40);
            files.arrange((0..40).map(|entry| vec![entry, 39 - entry]).collect());
            let fetched = files.fetch(&[3, 17, 20, 21, 39]).unwrap();
            for (sample, entries) in fetched.iter().zip([[3, 36], [17, 22], [20, 19], [21, 18], [39, 0]]) {
                assert!(sample.iter().zip(entries).all(|(bytes, entry)| bytes[..] == content[entry].1[..]), "{entries:?}");
            }
        }
    }
}
