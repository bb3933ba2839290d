//! Mixed precision: which operations of the networks compute in fewer bits.
//!
//! With `train.precision = "bf16"`, libtorch's autocast turns the inputs of matrix products, convolutions and attention to bf16; weights
//! stay f32. What sums over many small numbers opts out with [`in_f32`].

use common::config::Precision;
use tch::{Device, Kind};
use torch_shim::Autocast;

/// The precision of the networks on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixed {
    device: Device,
    /// What autocast turns inputs to; none leaves all as it is.
    kind: Option<Kind>,
}

impl Mixed {
    /// Nothing is rounded.
    pub const FULL: Self = Self { device: Device::Cpu, kind: None };

    /// What `train.precision` means on `device`.
    pub fn new(precision: Precision, device: Device) -> Self {
        Self { device, kind: (precision == Precision::Bf16).then_some(Kind::BFloat16) }
    }

    /// Runs a forward pass in this precision.
    pub fn run<T>(self, forward: impl FnOnce() -> T) -> T {
        let _autocast = self.kind.map(|kind| Autocast::enter(self.device, kind));
        forward()
    }
}

/// Runs a part of a forward pass on `device` in the kinds of its inputs, whatever the precision of the rest.
pub(crate) fn in_f32<T>(device: Device, forward: impl FnOnce() -> T) -> T {
    let _off = Autocast::off(device);
    forward()
}
