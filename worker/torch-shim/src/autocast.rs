//! Automatic mixed precision: in a region, operations that gain from it compute in bf16 or f16, the parameters stay f32.

use std::ffi::c_int;
use std::marker::PhantomData;

use tch::{Device, Kind};

use crate::error::{Result, ShimError, check};
use crate::ffi;

/// A region of this thread with autocast on, or off; it ends where the guard is dropped, and the state before it is back. Regions nest,
/// and end in the reverse of their order. When the outermost ends, the weights that were cast in it are forgotten.
///
/// Backward needs no region: it computes in the kinds that forward has chosen.
#[must_use = "the region ends where the guard is dropped"]
pub struct Autocast {
    cuda: c_int,
    was_enabled: c_int,
    previous_kind: c_int,
    /// The state is the thread's.
    _of_this_thread: PhantomData<*const ()>,
}

impl Autocast {
    /// Computes in `kind` on devices of `device`'s type.
    ///
    /// # Errors
    /// `kind` is neither bf16 nor f16, or the device neither the CPU nor CUDA.
    pub fn enter(device: Device, kind: Kind) -> Result<Self> {
        match kind {
            Kind::BFloat16 | Kind::Half => Self::set(device, true, ffi::scalar_type(kind).unwrap_or(-1)),
            _ => Err(ShimError::Argument { call: "Autocast::enter", message: format!("{kind:?} is neither BFloat16 nor Half") }),
        }
    }

    /// A part that computes in the kinds of its inputs, inside of a region or not. A bf16 tensor that comes in stays bf16: cast it.
    ///
    /// # Errors
    /// The device is neither the CPU nor CUDA.
    pub fn off(device: Device) -> Result<Self> {
        Self::set(device, false, -1)
    }

    fn set(device: Device, enabled: bool, kind: c_int) -> Result<Self> {
        let call = if enabled { "Autocast::enter" } else { "Autocast::off" };
        let cuda = match device {
            Device::Cpu => 0,
            Device::Cuda(_) => 1,
            other => return Err(ShimError::Argument { call, message: format!("{other:?} is neither the CPU nor CUDA") }),
        };
        let mut guard = Self { cuda, was_enabled: 0, previous_kind: 0, _of_this_thread: PhantomData };
        // SAFETY: the two pointers are of live integers. A guard that is dropped unset would leave a region that never began: forget it.
        let outcome = unsafe {
            ffi::shim_autocast_enter(cuda, enabled.into(), kind, &raw mut guard.was_enabled, &raw mut guard.previous_kind)
        };
        match check(call, outcome) {
            Ok(()) => Ok(guard),
            Err(error) => {
                std::mem::forget(guard);
                Err(error)
            }
        }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain integers, which `enter` has returned on this thread. It sets thread-local values and cannot fail.
        let _ = unsafe { ffi::shim_autocast_leave(self.cuda, self.was_enabled, self.previous_kind) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn product(left: &Tensor, right: &Tensor) -> Kind {
        left.matmul(right).kind()
    }

    #[test]
    fn regions_nest_and_end() {
        let (a, b) = (Tensor::ones([2, 3], (Kind::Float, Device::Cpu)), Tensor::ones([3, 2], (Kind::Float, Device::Cpu)));
        let outer = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(product(&a, &b), Kind::BFloat16);
        {
            let _off = Autocast::off(Device::Cpu).unwrap();
            assert_eq!(product(&a, &b), Kind::Float);
            let _inner = Autocast::enter(Device::Cpu, Kind::Half).unwrap();
            assert_eq!(product(&a, &b), Kind::Half);
            // Another device, another thread: neither is concerned.
            let _cuda = Autocast::off(Device::Cuda(0)).unwrap();
            assert_eq!(product(&a, &b), Kind::Half);
            let elsewhere = std::thread::spawn(|| {
                let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
                product(&a, &a)
            });
            assert_eq!(elsewhere.join().unwrap(), Kind::Float);
        }
        assert_eq!(product(&a, &b), Kind::BFloat16);
        drop(outer);
        assert_eq!(product(&a, &b), Kind::Float);
        assert!(Autocast::enter(Device::Cpu, Kind::Double).is_err());
        assert!(Autocast::off(Device::Mps).is_err());
    }

    #[test]
    fn parameters_and_their_gradients_stay_f32_and_the_next_region_sees_new_weights() {
        let mut weight = Tensor::full([2, 2], 1.0, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let input = Tensor::ones([1, 2], (Kind::Float, Device::Cpu));
        for expected in [2.0, 8.0] {
            let output = {
                let _region = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
                input.matmul(&weight)
            };
            assert_eq!((output.kind(), output.double_value(&[0, 0])), (Kind::BFloat16, expected));
            output.sum(Kind::Float).backward();
            assert_eq!((weight.kind(), weight.grad().kind()), (Kind::Float, Kind::Float));
            // A cast of the old weight that outlived its region would be used again.
            let _ = tch::no_grad(|| weight.fill_(4.0));
        }
    }
}
