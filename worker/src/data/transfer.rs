//! Batches on their way to the device, while the device is still at the step before.

use super::{Batch, DataError};
use tch::{Device, Tensor};
use torch_shim::ShimError;
use torch_shim::cuda::{Event, Priority, Stream, record_stream};
use torch_shim::memory::{copy_non_blocking, pin};

/// Brings batches to a device: to a GPU through pinned memory and a stream of its own, so that neither the host nor the computation waits
/// for the copy; to the CPU there is no way to go.
pub struct Transfer {
    lane: Option<(usize, Stream)>,
}

impl Transfer {
    /// Ways to `device`.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn new(device: Device) -> Result<Self, DataError> {
        let lane = match device {
            Device::Cuda(index) => Some((index, Stream::from_pool(index, Priority::Normal)?)),
            _ => None,
        };
        Ok(Self { lane })
    }

    /// The batch on the device. What the calling thread queues there from now on comes after the copy.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn bring(&self, batch: Batch) -> Result<Batch, DataError> {
        let Some((index, stream)) = self.lane else { return Ok(batch) };
        let computation = Stream::current(index)?;
        let arrived = {
            let _entered = stream.make_current()?;
            batch.try_map(|tensor| copy(tensor, Device::Cuda(index), computation))?
        };
        let mut event = Event::new()?;
        event.record(stream)?;
        computation.wait(&event)?;
        Ok(arrived)
    }
}

/// A copy on `device`, whose memory is not used again before `reader` is done with it. The pinned memory is libtorch's to keep until then.
fn copy(tensor: &Tensor, device: Device, reader: Stream) -> Result<Tensor, ShimError> {
    let mut arrived = Tensor::empty(tensor.size(), (tensor.kind(), device));
    copy_non_blocking(&mut arrived, &pin(tensor)?)?;
    record_stream(&arrived, reader)?;
    Ok(arrived)
}
