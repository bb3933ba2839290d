//! A few numbers of every step, read by the host without waiting for the step.

use tch::{Device, Kind, Tensor};
use torch_shim::ShimError;
use torch_shim::cuda::{Event, Stream};
use torch_shim::memory::{copy_non_blocking, empty_pinned};

/// On the CPU a step's numbers are there when the step is. On a GPU they are read when the next step is under way, so one step late: on
/// all workers alike.
pub struct Readback {
    device: Device,
    /// On a GPU: where the numbers of the step before are copied to, and when they are there.
    pending: Option<(Tensor, Event)>,
}

impl Readback {
    /// For numbers that lie on `device`.
    pub fn new(device: Device) -> Self {
        Self { device, pending: None }
    }

    /// Hands over a step's numbers, a tensor of one dimension. Returns the newest numbers that can be read without waiting for this step.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn exchange(&mut self, numbers: &Tensor) -> Result<Option<Vec<f64>>, ShimError> {
        let Device::Cuda(index) = self.device else { return Ok(read(numbers)) };
        // The copy takes its place behind this step: one that is asked for later would have to wait for the step after it.
        let mut copied = empty_pinned(&numbers.size(), numbers.kind())?;
        copy_non_blocking(&mut copied, numbers)?;
        let mut there = Event::new()?;
        there.record(Stream::current(index)?)?;
        let Some((numbers, there)) = self.pending.replace((copied, there)) else { return Ok(None) };
        there.synchronize()?;
        Ok(read(&numbers))
    }
}

fn read(numbers: &Tensor) -> Option<Vec<f64>> {
    Vec::try_from(numbers.to_kind(Kind::Double)).ok()
}
