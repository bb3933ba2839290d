//! What NCCL's functions return, and why an operation on a communicator failed.

use std::ffi::c_int;
use std::fmt;
use std::time::Duration;

/// `ncclResult_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The call did what it should, or has queued it.
    Success,
    /// A CUDA function failed.
    UnhandledCudaError,
    /// A system call failed: sockets, shared memory, threads.
    SystemError,
    /// A defect of NCCL, or corrupted memory.
    InternalError,
    /// An argument that NCCL does not accept.
    InvalidArgument,
    /// A call that is not allowed now, or ranks that disagree.
    InvalidUsage,
    /// Another rank died, gave up or cannot be reached.
    RemoteError,
    /// Not done yet; to be asked for again.
    InProgress,
    /// A code that this crate has no name for.
    Unknown(i32),
}

impl From<c_int> for Code {
    fn from(code: c_int) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::UnhandledCudaError,
            2 => Self::SystemError,
            3 => Self::InternalError,
            4 => Self::InvalidArgument,
            5 => Self::InvalidUsage,
            6 => Self::RemoteError,
            7 => Self::InProgress,
            unknown => Self::Unknown(unknown),
        }
    }
}

/// What NCCL says about a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The result code.
    pub code: Code,
    /// `ncclGetErrorString`: what the code means in general.
    pub meaning: String,
    /// `ncclGetLastError`: the particular cause, where NCCL knows one. NCCL keeps one for the whole process, so with several
    /// communicators it may belong to another one.
    pub detail: Option<String>,
}

impl fmt::Display for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.meaning)?;
        match &self.detail {
            Some(detail) => write!(formatter, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// Why ranks could not do something together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No rank can be given an id.
    #[error("ncclGetUniqueId failed: {words}")]
    UniqueId {
        /// NCCL's own words.
        words: Words,
    },
    /// A rank outside of the world, or a world that NCCL cannot count.
    #[error("there is no rank {rank} in a world of {world}; ranks are counted from 0")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// The world size.
        world: usize,
    },
    /// NCCL reports a failure.
    #[error("{operation} failed on rank {rank} of {world}: {words}")]
    Failed {
        /// The operation: the name of the C function, or what was done with the communicator.
        operation: &'static str,
        /// This process's rank.
        rank: usize,
        /// The world size.
        world: usize,
        /// NCCL's own words.
        words: Words,
    },
    /// NCCL was still at it when the time was up.
    #[error("{operation} on rank {rank} of {world} was not done after {waited:.1?}{}", hint(.detail.as_deref()))]
    Deadline {
        /// The operation, as in [`Error::Failed`].
        operation: &'static str,
        /// This process's rank.
        rank: usize,
        /// The world size.
        world: usize,
        /// How long it was waited for.
        waited: Duration,
        /// `ncclGetLastError`, if it says anything.
        detail: Option<String>,
    },
    /// The call that ends a communicator does not return, as happens when the driver hangs. The communicator and the thread that is
    /// in the call are left as they are: only the end of the process takes them away, and it should be `_exit`, as `exit` runs the
    /// driver's own clean-up.
    #[error(
        "{operation} on rank {rank} of {world} did not return within {waited:.1?}; the communicator is leaked, end the process"
    )]
    Stuck {
        /// The C function.
        operation: &'static str,
        /// This process's rank.
        rank: usize,
        /// The world size.
        world: usize,
        /// How long it was waited for.
        waited: Duration,
    },
    /// There is no thread for the call that ends a communicator. The communicator is leaked.
    #[error("{operation} on rank {rank} of {world}: no thread for it, the communicator is leaked")]
    NoThread {
        /// The C function.
        operation: &'static str,
        /// This process's rank.
        rank: usize,
        /// The world size.
        world: usize,
        /// Why the system gives no thread.
        source: std::io::Error,
    },
    /// Something failed, and so did giving the communicator up afterwards.
    #[error("{cause}; then {abort}")]
    AndAbort {
        /// What failed first.
        cause: Box<Error>,
        /// How giving up failed.
        abort: Box<Error>,
    },
}

/// NCCL's last words as an addition to a message.
fn hint(detail: Option<&str>) -> String {
    detail.map_or_else(String::new, |detail| format!(" (NCCL's last words: {detail})"))
}
