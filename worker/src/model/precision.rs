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
        let known = matches!(device, Device::Cpu | Device::Cuda(_));
        Self { device, kind: (known && precision == Precision::Bf16).then_some(Kind::BFloat16) }
    }

    /// Runs a forward pass in this precision.
    pub fn run<T>(self, forward: impl FnOnce() -> T) -> T {
        // Fails for devices alone that `new` gives no kind to.
        let _autocast = self.kind.and_then(|kind| Autocast::enter(self.device, kind).ok());
        forward()
    }
}

/// Runs a part of a forward pass on `device` in the kinds of its inputs, whatever the precision of the rest.
pub(crate) fn in_f32<T>(device: Device, forward: impl FnOnce() -> T) -> T {
    // Fails for devices alone on which it was never on.
    let _off = Autocast::off(device).ok();
    forward()
}
