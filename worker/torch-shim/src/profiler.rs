//! A profile of a few steps as a Chrome trace (`chrome://tracing`, or ui.perfetto.dev), with our own phases named in it.
//!
//! Kineto, libtorch's profiler, writes to standard error that it sees no GPU where there is none, and that an initialisation "must run in
//! same thread" where the first profile begins elsewhere than on the main thread. Neither matters: the latter is for being profiled on
//! demand from outside.

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Result, ShimError, check};
use crate::ffi;

/// Whether a profile is being recorded: libtorch would let a second one begin, and lose both.
static RECORDING: AtomicBool = AtomicBool::new(false);

/// What is recorded besides names and times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Detail {
    /// Shapes of the operations' inputs.
    pub shapes: bool,
    /// Allocations.
    pub memory: bool,
}

/// A profile that is being recorded, of all threads, and of the GPU where there is one. Dropped without [`Profile::save`] it is
/// forgotten.
#[must_use = "dropping the profile forgets it"]
pub struct Profile {
    /// It ends on the thread on which it began.
    _of_this_thread: PhantomData<*const ()>,
}

impl Profile {
    /// Begins to record.
    ///
    /// # Errors
    /// A profile is being recorded.
    pub fn start(detail: Detail) -> Result<Self> {
        let call = "Profile::start";
        if RECORDING.swap(true, Ordering::AcqRel) {
            return Err(ShimError::Argument { call, message: "a profile is being recorded: save it first".into() });
        }
        // SAFETY: plain integers.
        let started = check(call, unsafe { ffi::shim_profiler_start(detail.shapes.into(), detail.memory.into()) });
        RECORDING.store(started.is_ok(), Ordering::Release);
        started.map(|()| Self { _of_this_thread: PhantomData })
    }

    /// Ends the recording and writes it to `path`.
    ///
    /// # Errors
    /// `path` cannot be written.
    pub fn save(self, path: &Path) -> Result<()> {
        let call = "Profile::save";
        let error = |message: String| ShimError::Argument { call, message: format!("{}: {message}", path.display()) };
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|nul| error(nul.to_string()))?;
        // Kineto only logs that it could not write.
        std::fs::File::create(path).map_err(|io| error(io.to_string()))?;
        std::mem::forget(self);
        stop(call, Some(&name))
    }
}

/// Ends the recording that has begun, and saves it if a path is given.
fn stop(call: &'static str, path: Option<&CStr>) -> Result<()> {
    let path = path.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: null, or a string that lives through the call. Without a recording it is an exception, and no more.
    let outcome = check(call, unsafe { ffi::shim_profiler_stop(path) });
    RECORDING.store(false, Ordering::Release);
    outcome
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Nobody wants it, so nobody wants to know why it could not be ended either.
        let _ = stop("Profile::drop", None);
    }
}

/// A named part of this thread's time in a profile, from here to where it is dropped; ranges nest. Costs a few nanoseconds where nothing
/// is recorded.
#[must_use = "the range ends where it is dropped"]
pub struct Range {
    handle: *mut c_void,
}

/// Begins a [`Range`].
pub fn record_function(name: &str) -> Range {
    let mut handle = std::ptr::null_mut();
    // SAFETY: the name is copied. A range that could not be begun is null: a profile lacks it, and nothing else does.
    let _ = unsafe { ffi::shim_range_begin(name.as_ptr().cast(), name.len(), &raw mut handle) };
    Range { handle }
}

impl Drop for Range {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: `record_function` has made it, on this thread, and it is ended once.
            let _ = unsafe { ffi::shim_range_end(self.handle) };
        }
    }
}
