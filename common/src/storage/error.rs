//! What goes wrong between the program and its objects, and what the backends' own errors mean.

use super::local;
use super::refusal::Refusal;

/// What goes wrong between the program and its objects; each names the object or the URL.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URL names no kind of store that is supported, or cannot be read as one.
    #[error(
        "{url}: {reason}; supported are a local path, file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, \
         az://CONTAINER/PREFIX and memory://"
    )]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that cannot be an object's.
    #[error("{object}: not a usable object name: {reason}")]
    Name {
        /// The object.
        object: String,
        /// What is wrong with the name.
        reason: String,
    },
    /// The object does not exist.
    #[error("{object}: no such object")]
    NotFound {
        /// The object.
        object: String,
    },
    /// The object is shorter or longer than it must be.
    #[error("{object}: expected {expected} bytes, found {found}; the object is truncated or was replaced while it was read")]
    Size {
        /// The object.
        object: String,
        /// Bytes it must have, or must have at least when a range was read.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// There is no room for the object.
    #[error("cannot write {object}: {}; make room there, or choose another place", full(*.quota))]
    Full {
        /// The object.
        object: String,
        /// Whether it is the quota that is used up, and not the disk.
        quota: bool,
    },
    /// The store refuses, and will again.
    #[error("cannot {action} {object}: {refusal}")]
    Refused {
        /// What was tried: read, write, list, delete.
        action: &'static str,
        /// The object or folder.
        object: String,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// The store failed.
    #[error("cannot {action} {object}: {source}")]
    Backend {
        /// What was tried: read, write, list, delete.
        action: &'static str,
        /// The object or folder.
        object: String,
        /// What the store said.
        source: Box<object_store::Error>,
    },
}

impl StorageError {
    /// Whether the object simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the store or this program refuses, so that trying again cannot help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Url { .. } | Self::Name { .. })
    }

    /// Whether the place is at fault: a disk that is full or may not be written, a path that is none. Somebody has to do something about it.
    pub fn is_of_the_place(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Backend { source, .. } => errno(source).is_some_and(|number| local::CLOSED.contains(&number)),
            _ => false,
        }
    }
}

fn full(quota: bool) -> &'static str {
    if quota { "the quota is used up" } else { "no space is left on the device" }
}

/// The operating system's number for what went wrong, if it was asked.
pub(super) fn errno(error: &object_store::Error) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(number) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(number);
        }
        cause = error.source();
    }
    None
}

/// Whether a store cannot make sure that an object is new: it says so, or it is a file system without hard links.
pub(super) fn knows_no_create(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })
        || matches!(errno(error), Some(local::EPERM | local::ENOSYS | local::EOPNOTSUPP))
}
