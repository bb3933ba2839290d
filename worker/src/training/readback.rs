//! A few numbers of every step, read by the host without waiting for the step.

use tch::{Device, Kind, Tensor};

/// On the CPU a step's numbers are there when the step is. On a GPU they are read when the next step is under way, so one step late: on
/// all workers alike.
pub struct Readback {
    late: bool,
    pending: Option<Tensor>,
}

impl Readback {
    /// For numbers that lie on `device`.
    pub fn new(device: Device) -> Self {
        Self { late: device != Device::Cpu, pending: None }
    }

    /// Hands over a step's numbers, a tensor of one dimension. Returns the newest numbers that can be read without waiting for this step.
    pub fn exchange(&mut self, numbers: Tensor) -> Option<Vec<f64>> {
        let readable = if self.late { self.pending.replace(numbers) } else { Some(numbers) };
        readable.and_then(|numbers| Vec::try_from(numbers.to_kind(Kind::Double)).ok())
    }
}
