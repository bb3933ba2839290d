//! What can fail: libtorch, the memory, and the absence of a GPU.

use std::ffi::{CStr, c_int};

use crate::cuda::CudaStatus;
use crate::ffi;

/// A call into libtorch that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShimError {
    /// An exception of libtorch, or a precondition that the shim checks.
    #[error("{call}: {message}")]
    Libtorch {
        /// What was called.
        call: &'static str,
        /// The message of the exception.
        message: String,
    },
    /// A host or a device has no memory left. The message is libtorch's, with sizes.
    #[error("{call}: {message}")]
    OutOfMemory {
        /// What was called.
        call: &'static str,
        /// The message of the exception.
        message: String,
    },
    /// A GPU is needed, and there is none that can be used.
    #[error("{call}: {status}")]
    NoDevice {
        /// What was called.
        call: &'static str,
        /// What stands in the way.
        status: CudaStatus,
    },
    /// An argument that libtorch has no word for.
    #[error("{call}: {message}")]
    Argument {
        /// What was called.
        call: &'static str,
        /// What is wrong with the argument.
        message: String,
    },
}

/// A [`ShimError`] or a value.
pub type Result<T> = std::result::Result<T, ShimError>;

/// What the C++ side returns; `Outcome` in `cpp/shim.h`.
const DONE: c_int = 0;
const OUT_OF_MEMORY: c_int = 2;
pub(crate) const NO_DEVICE: c_int = 3;

/// The outcome of `call` as a result.
pub(crate) fn check(call: &'static str, outcome: c_int) -> Result<()> {
    match outcome {
        DONE => Ok(()),
        OUT_OF_MEMORY => Err(ShimError::OutOfMemory { call, message: last_error() }),
        NO_DEVICE => Err(ShimError::NoDevice { call, status: CudaStatus::of_this_process() }),
        _ => Err(ShimError::Libtorch { call, message: last_error() }),
    }
}

fn last_error() -> String {
    // SAFETY: a null-terminated string of this thread, which lives until the next call on it.
    unsafe { CStr::from_ptr(ffi::shim_last_error()) }.to_string_lossy().into_owned()
}
