//! The order between the computation and the communication: on a GPU they are queues of their own, which wait for each other by events
//! while no thread waits; on a CPU whatever was called is done.

use super::CollectiveError;
use std::ffi::c_void;
use tch::Device;
use torch_shim::ShimError;
use torch_shim::cuda::{Event, Priority, Stream, StreamGuard};

/// A moment in a queue of a device.
pub struct Moment(Option<Event>);

impl Moment {
    /// When everything is done that the calling thread has queued on `device` so far.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn now(device: Device) -> Result<Self, CollectiveError> {
        match device {
            Device::Cuda(index) => Self::of(Stream::current(index).map_err(failed)?),
            _ => Ok(Self(None)),
        }
    }

    /// What the calling thread queues on `device` from now on comes after this moment.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn before_the_rest(&self, device: Device) -> Result<(), CollectiveError> {
        match (&self.0, device) {
            (Some(event), Device::Cuda(index)) => Stream::current(index).and_then(|stream| stream.wait(event)).map_err(failed),
            _ => Ok(()),
        }
    }

    fn of(stream: Stream) -> Result<Self, CollectiveError> {
        let mut event = Event::new().map_err(failed)?;
        event.record(stream).map_err(failed)?;
        Ok(Self(Some(event)))
    }
}

/// The queue of a collective's own operations.
pub struct Lane(Option<Stream>);

impl Lane {
    /// A queue on `device`, ahead of others where the device has to choose.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn new(device: Device) -> Result<Self, CollectiveError> {
        match device {
            Device::Cuda(index) => Ok(Self(Some(Stream::from_pool(index, Priority::High).map_err(failed)?))),
            _ => Ok(Self(None)),
        }
    }

    /// Makes it, and its device, the one that this thread works with, as long as the guard lives.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn enter(&self) -> Result<Option<StreamGuard>, CollectiveError> {
        self.0.map(Stream::make_current).transpose().map_err(failed)
    }

    /// The `cudaStream_t`; null on a CPU.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn handle(&self) -> Result<*mut c_void, CollectiveError> {
        self.0.map_or(Ok(std::ptr::null_mut()), |stream| stream.handle().map_err(failed))
    }

    /// Waits until everything in it is done.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn wait_until_empty(&self) -> Result<(), CollectiveError> {
        self.0.map_or(Ok(()), |stream| stream.synchronize().map_err(failed))
    }
}

fn failed(error: ShimError) -> CollectiveError {
    CollectiveError::Transport { operation: "CUDA", cause: error.to_string() }
}
