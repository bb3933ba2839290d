//! Streams: queues of a GPU whose work runs in order, and beside that of other streams.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use tch::Tensor;

use super::Event;
use super::ffi::{self, index};
use crate::error::{Result, check};
use crate::ffi::pointer;

/// A stream of libtorch's. The pools own them all: this is a name for one, which any thread may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    device: usize,
    id: i64,
}

/// Which of a device's pools a stream comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// As the default stream.
    Normal,
    /// Its blocks are scheduled before those of other streams: for communication beside computation.
    High,
}

impl Stream {
    /// The next of the 32 streams of a pool, in turn: the 33rd is the first again.
    ///
    /// # Errors
    /// There is no such device.
    pub fn from_pool(device: usize, priority: Priority) -> Result<Self> {
        let high = (priority == Priority::High).into();
        // SAFETY: a live integer.
        Self::named("Stream::from_pool", device, |id| unsafe { ffi::shim_stream_from_pool(index(device), high, id) })
    }

    /// The stream that `device`'s work goes to unless another was made current.
    ///
    /// # Errors
    /// There is no such device.
    pub fn default_of(device: usize) -> Result<Self> {
        // SAFETY: a live integer.
        Self::named("Stream::default_of", device, |id| unsafe { ffi::shim_stream_default(index(device), id) })
    }

    /// The stream that this thread's work on `device` goes to.
    ///
    /// # Errors
    /// There is no such device.
    pub fn current(device: usize) -> Result<Self> {
        // SAFETY: a live integer.
        Self::named("Stream::current", device, |id| unsafe { ffi::shim_stream_current(index(device), id) })
    }

    fn named(call: &'static str, device: usize, function: impl FnOnce(*mut i64) -> c_int) -> Result<Self> {
        let mut id = 0;
        check(call, function(&raw mut id))?;
        Ok(Self { device, id })
    }

    pub(super) fn parts(self) -> (usize, i64) {
        (self.device, self.id)
    }

    /// The device that it belongs to.
    pub fn device(self) -> usize {
        self.device
    }

    /// Sends this thread's work on the stream's device to it, and makes that device the current one, until the guard is dropped.
    ///
    /// # Errors
    /// The device is gone.
    pub fn make_current(self) -> Result<StreamGuard> {
        let (mut device, mut id) = (0, 0);
        // SAFETY: a stream of libtorch's and two live integers.
        let outcome = unsafe { ffi::shim_stream_make_current(index(self.device), self.id, &raw mut device, &raw mut id) };
        check("Stream::make_current", outcome)?;
        let previous = Self { device: self.device, id };
        Ok(StreamGuard { previous, previous_device: device, _of_this_thread: PhantomData })
    }

    /// What is queued here from now on waits until `event` has passed; the host does not. Nothing if the event was never recorded.
    ///
    /// # Errors
    /// As CUDA has them.
    pub fn wait(self, event: &Event) -> Result<()> {
        // SAFETY: a stream of libtorch's and a live event.
        check("Stream::wait", unsafe { ffi::shim_stream_wait(index(self.device), self.id, event.handle()) })
    }

    /// Whether all that is queued is done.
    ///
    /// # Errors
    /// Work that was queued has failed.
    pub fn query(self) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a stream of libtorch's and a live integer.
        check("Stream::query", unsafe { ffi::shim_stream_query(index(self.device), self.id, &raw mut done) })?;
        Ok(done != 0)
    }

    /// Waits until all that is queued is done.
    ///
    /// # Errors
    /// Work that was queued has failed.
    pub fn synchronize(self) -> Result<()> {
        // SAFETY: a stream of libtorch's.
        check("Stream::synchronize", unsafe { ffi::shim_stream_synchronize(index(self.device), self.id) })
    }

    /// The `cudaStream_t`, for libraries such as NCCL. It stays valid until the process ends; the default stream's is null.
    ///
    /// # Errors
    /// The device is gone.
    pub fn handle(self) -> Result<*mut c_void> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a stream of libtorch's and a live pointer.
        check("Stream::handle", unsafe { ffi::shim_stream_handle(index(self.device), self.id, &raw mut handle) })?;
        Ok(handle)
    }
}

/// While it lives, a stream is current on this thread. Guards end in the reverse of their order.
#[must_use = "the stream is current until the guard is dropped"]
pub struct StreamGuard {
    previous: Stream,
    previous_device: c_int,
    /// What is current is the thread's.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let Stream { device, id } = self.previous;
        // SAFETY: what `make_current` has found on this thread. It was valid then; a device that fails meanwhile fails the next call, too.
        let _ = unsafe { ffi::shim_stream_restore(index(device), id, self.previous_device) };
    }
}

/// Says that `stream` uses `tensor`, which was allocated for another one: once freed, its memory is given away only after what `stream`
/// has queued by then.
///
/// # Errors
/// `tensor` is not on a GPU.
pub fn record_stream(tensor: &Tensor, stream: Stream) -> Result<()> {
    // SAFETY: a live tensor and a stream of libtorch's.
    check("record_stream", unsafe { ffi::shim_record_stream(pointer(tensor), index(stream.device), stream.id) })
}
