//! The state of libtorch's random number generators, one for the CPU and one per GPU: saved and put back, the same numbers follow.

use std::ffi::c_int;

use tch::{Device, Tensor};

use crate::error::{Result, ShimError, check};
use crate::ffi::{self, pointer};
use crate::memory::returned;

/// The state of `device`'s generator: bytes, on the CPU (`[5056]` of the CPU's, `[16]` of a GPU's).
///
/// # Errors
/// A GPU that is not there, or a device that is neither the CPU nor CUDA.
pub fn state(device: Device) -> Result<Tensor> {
    let index = index("random::state", device)?;
    // SAFETY: plain arguments.
    unsafe { returned("random::state", |out| ffi::shim_random_state(index, out)) }
}

/// Puts back what [`state`] returned.
///
/// # Errors
/// As [`state`], and bytes that are no state of such a generator.
pub fn set_state(device: Device, state: &Tensor) -> Result<()> {
    let index = index("random::set_state", device)?;
    // SAFETY: a live tensor.
    check("random::set_state", unsafe { ffi::shim_set_random_state(index, pointer(state)) })
}

fn index(call: &'static str, device: Device) -> Result<c_int> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => Ok(c_int::try_from(index).unwrap_or(c_int::MAX)),
        other => Err(ShimError::Argument { call, message: format!("{other:?} is neither the CPU nor CUDA") }),
    }
}
