//! One number of every step, read by the host without waiting for the step.

use tch::{Device, Tensor};

/// On the CPU a step's number is there when the step is. On a GPU it is read when the next step is under way, so one step late: on all
/// workers alike.
pub struct Readback {
    late: bool,
    pending: Option<Tensor>,
}

impl Readback {
    /// For numbers that lie on `device`.
    pub fn new(device: Device) -> Self {
        Self { late: device != Device::Cpu, pending: None }
    }

    /// Hands over a step's number, a tensor of one element. Returns the newest number that can be read without waiting for this step.
    pub fn exchange(&mut self, number: Tensor) -> Option<f64> {
        let readable = if self.late { self.pending.replace(number) } else { Some(number) };
        readable.map(|number| number.double_value(&[]))
    }
}
