//! Events: marks in a stream that other streams, or the host, can wait for.

use std::ffi::c_void;

use super::Stream;
use super::ffi::{self, index};
use crate::error::{Result, check};

/// A mark that is put into a stream and passed when all that was queued before it is done. Recording it again moves it.
#[derive(Debug)]
pub struct Event {
    handle: *mut c_void,
}

// SAFETY: CUDA's events may be used from any thread, and C++ keeps nothing of the thread's.
unsafe impl Send for Event {}
// SAFETY: only `record` changes the C++ object, and it takes `&mut`.
unsafe impl Sync for Event {}

impl Event {
    /// For ordering alone: the cheapest.
    ///
    /// # Errors
    /// There is no GPU.
    pub fn new() -> Result<Self> {
        Self::with("Event::new", false)
    }

    /// That also remembers when it was passed, for [`Event::elapsed_since`].
    ///
    /// # Errors
    /// There is no GPU.
    pub fn with_timing() -> Result<Self> {
        Self::with("Event::with_timing", true)
    }

    fn with(call: &'static str, timing: bool) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live pointer.
        check(call, unsafe { ffi::shim_event_new(timing.into(), &raw mut handle) })?;
        Ok(Self { handle })
    }

    /// Puts the mark behind all that `stream` has queued.
    ///
    /// # Errors
    /// It was recorded on another device before.
    pub fn record(&mut self, stream: Stream) -> Result<()> {
        let (device, id) = stream.parts();
        // SAFETY: a live event and a stream of libtorch's.
        check("Event::record", unsafe { ffi::shim_event_record(self.handle, index(device), id) })
    }

    /// Whether it was passed, or never recorded.
    ///
    /// # Errors
    /// Work before it has failed.
    pub fn query(&self) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a live event and a live integer.
        check("Event::query", unsafe { ffi::shim_event_query(self.handle, &raw mut done) })?;
        Ok(done != 0)
    }

    /// Waits on the host until it is passed.
    ///
    /// # Errors
    /// Work before it has failed.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a live event.
        check("Event::synchronize", unsafe { ffi::shim_event_synchronize(self.handle) })
    }

    /// Milliseconds on the device from `start` to this one.
    ///
    /// # Errors
    /// One of them has no timing, was not recorded, or is not passed.
    pub fn elapsed_since(&self, start: &Self) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: two live events and a live number.
        check("Event::elapsed_since", unsafe { ffi::shim_event_elapsed(start.handle, self.handle, &raw mut milliseconds) })?;
        Ok(milliseconds)
    }

    pub(super) fn handle(&self) -> *mut c_void {
        self.handle
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `with`, and deleted once. C++ leaves a destruction that fails at a warning.
        let _ = unsafe { ffi::shim_event_delete(self.handle) };
    }
}
