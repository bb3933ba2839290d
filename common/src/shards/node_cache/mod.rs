//! Verified blocks in a folder on a local disk, shared by the workers of a host and by jobs: each block is fetched once, however many ask.
//!
//! ```text
//! FOLDER/lsd-blocks/
//!   CACHEDIR.TAG              the mark of ownership: without it nothing here is touched
//!   books                     bytes on each shelf; locked by whoever changes what is here
//!   users                     locked by every process that uses the cache: the first one counts what is there
//!   turns                     a locked byte for each block that is being fetched
//!   <data set>/in-use         locked by the readers of the data set: while one lives, nothing of it is given up for another
//!   <data set>/kept/12.0.1.7  block 7 of tensor 1 of file 0 of shard 12: stays
//!   <data set>/kept/12.1.1.3.0    rows of block 3 of tensor 1 of file 1 of shard 12, decoded ([`decoded`])
//!   <data set>/recent/...     passes through
//! ```
//!
//! Every epoch reads every block once, in another order. Whoever gives up the least recently used block for each new one then finds
//! almost nothing of a data set that is larger than the cache; so three quarters of the cache are filled once and stay, and are found in
//! every epoch. The rest is for what does not fit: the block that one worker has fetched is there for the others for a while.
//!
//! No lock outlives its process, and a block appears under its name only when it is complete, as a decoded row counts only once its digest
//! is there; so a process that is killed leaves a usable cache. What is read is verified like any fetched block.

mod books;
mod decoded;
mod group;
#[cfg(test)]
mod tests;
mod turns;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::fcntl::{Flock, FlockArg};

use books::{Books, Limits};
pub(super) use decoded::DecodedBlock;
pub use group::Group;

/// The folder inside the one that a configuration names, so that whatever else lies there stays.
const FOLDER: &str = "lsd-blocks";
const TAG: &str = "CACHEDIR.TAG";
/// What backup programs know such folders by (bford.info/cachedir).
const SIGNATURE: &str = "Signature: 8a477f597d28d172789f06886806bc55";
const USERS: &str = "users";

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum NodeCacheError {
    /// The folder holds something else.
    #[error("{folder}: holds files, and no {TAG} says that they are cached blocks; set data.cache_folder to another place")]
    Foreign {
        /// The folder.
        folder: String,
    },
    /// The file system fails.
    #[error("{folder}: cannot be used for cached blocks: {source}")]
    Io {
        /// The folder.
        folder: String,
        /// What it says.
        source: io::Error,
    },
}

/// The cache of a host, as one process sees it.
#[derive(Debug)]
pub struct NodeCache {
    folder: PathBuf,
    limits: Limits,
    /// Whether blocks are still added: not after the disk has failed.
    adds: AtomicBool,
    /// Whether there was no room for decoded rows. Nobody looks again for every row that comes by.
    full: AtomicBool,
    /// Ends with the lock that says that the cache is in use, and keeps it.
    _user: JoinHandle<io::Result<Flock<File>>>,
}

impl NodeCache {
    /// The cache in `folder`, which may grow to `limit` bytes on the disk. Made if it is not there.
    ///
    /// # Errors
    /// The place holds files of others, or the file system fails.
    pub fn open(folder: &Path, limit: u64) -> Result<Arc<Self>, NodeCacheError> {
        let folder = folder.join(FOLDER);
        let shown = folder.display().to_string();
        let failed = |source| NodeCacheError::Io { folder: shown.clone(), source };
        if !claim(&folder).map_err(failed)? {
            return Err(NodeCacheError::Foreign { folder: shown });
        }
        let user = std::thread::Builder::new().name("node-cache".into()).spawn({
            let folder = folder.clone();
            move || enter(&folder)
        });
        let user = user.map_err(failed)?;
        Ok(Arc::new(Self {
            folder,
            limits: Limits::of(limit),
            adds: AtomicBool::new(true),
            full: AtomicBool::new(false),
            _user: user,
        }))
    }

    /// The part that belongs to the data set with this fingerprint.
    pub(super) fn group(self: &Arc<Self>, fingerprint: &str) -> Result<Group, NodeCacheError> {
        let failed = |source| NodeCacheError::Io { folder: self.folder.display().to_string(), source };
        Group::open(self.clone(), fingerprint).map_err(failed)
    }

    /// From now on nothing is added; what is there is still found.
    fn give_up(&self, error: &io::Error) {
        if self.adds.swap(false, Relaxed) {
            let folder = self.folder.display();
            tracing::warn!("{folder}: no more blocks are cached on this host by this worker: {error}");
        }
    }

    fn adds(&self) -> bool {
        self.adds.load(Relaxed)
    }

    fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    fn set_full(&self) {
        self.full.store(true, Relaxed);
        tracing::info!("{}: full; what is decoded from now on is not kept", self.folder.display());
    }

    /// Waits until what lay there was counted.
    #[cfg(test)]
    fn entered(&self) {
        while !self._user.is_finished() {
            std::thread::yield_now();
        }
    }
}

/// Makes the folder ours, if it is not that of others.
fn claim(folder: &Path) -> io::Result<bool> {
    fs::create_dir_all(folder)?;
    let tag = folder.join(TAG);
    match fs::read(&tag) {
        // Whoever was killed between making the file and filling it was one of us.
        Ok(content) if content.is_empty() || content.starts_with(SIGNATURE.as_bytes()) => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let taken = fs::read_dir(folder)?.next().is_some() && !tag.exists();
            if taken {
                return Ok(false);
            }
        }
        Err(error) => return Err(error),
    }
    let words = "# Blocks of data sets, each of which can be fetched again. While no job is running, this folder may be deleted.";
    fs::write(tag, format!("{SIGNATURE}\n{words}\n"))?;
    Ok(true)
}

/// Marks the cache as in use. Who finds nobody else there counts first what really lies there: processes that were killed may have left
/// pieces of blocks, and the books behind the times.
fn enter(folder: &Path) -> io::Result<Flock<File>> {
    let mut users = File::options().create(true).truncate(false).write(true).open(folder.join(USERS))?;
    match Flock::lock(users, FlockArg::LockExclusiveNonblock) {
        Ok(alone) => {
            Books::open(folder)?.recount()?;
            users = alone.unlock().map_err(|(_, error)| error)?;
        }
        Err((file, _)) => users = file,
    }
    Flock::lock(users, FlockArg::LockShared).map_err(|(_, error)| error.into())
}
