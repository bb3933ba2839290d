//! How tensors lie in memory, pinned host memory, and copies that do not wait for the device.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::{Result, ShimError, check};
use crate::ffi::{self, pointer};

/// The order of a tensor's elements in memory; its shape stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFormat {
    /// The last dimension is dense: `[N, C, H, W]` as it is written.
    Contiguous,
    /// Of `[N, C, H, W]`, the channels are dense: what tensor cores and oneDNN like convolutions to have.
    ChannelsLast,
}

impl MemoryFormat {
    fn channels_last(self) -> std::ffi::c_int {
        (self == Self::ChannelsLast).into()
    }
}

/// `tensor` in that order: itself if it lies so already, otherwise a copy, through which gradients flow.
///
/// # Errors
/// Channels last of a tensor that has not four dimensions.
pub fn to_memory_format(tensor: &Tensor, format: MemoryFormat) -> Result<Tensor> {
    // SAFETY: a live tensor.
    unsafe { returned("to_memory_format", |out| ffi::shim_contiguous(pointer(tensor), format.channels_last(), out)) }
}

/// Whether the channels of `tensor`, `[N, C, H, W]`, are dense. With one channel, or with one pixel, both orders are the same.
///
/// # Errors
/// A tensor that libtorch cannot ask (it is undefined).
pub fn is_channels_last(tensor: &Tensor) -> Result<bool> {
    let mut answer = 0;
    // SAFETY: a live tensor and a live integer.
    check("is_channels_last", unsafe { ffi::shim_is_contiguous(pointer(tensor), 1, &raw mut answer) })?;
    Ok(answer != 0)
}

/// Copies `source` into `destination`. Between pinned host memory and a GPU it returns at once: the copy is queued on the current
/// stream, and both must stay as they are until the stream has come by it. Anywhere else it is an ordinary copy.
///
/// # Errors
/// Shapes that do not fit.
pub fn copy_non_blocking(destination: &mut Tensor, source: &Tensor) -> Result<()> {
    // SAFETY: two live tensors.
    check("copy_non_blocking", unsafe { ffi::shim_copy_non_blocking(destination.as_mut_ptr(), pointer(source)) })
}

/// Host memory that a GPU can read and write while the host does something else; its contents are arbitrary.
///
/// # Errors
/// There is no GPU to pin it for, or no memory; a complex or quantised kind.
pub fn empty_pinned(shape: &[i64], kind: Kind) -> Result<Tensor> {
    let call = "empty_pinned";
    let Some(kind) = ffi::scalar_type(kind) else {
        return Err(ShimError::Argument { call, message: format!("{kind:?} is not a kind of plain numbers") });
    };
    // SAFETY: the shape lives through the call.
    unsafe { returned(call, |out| ffi::shim_empty_pinned(shape.as_ptr(), shape.len(), kind, out)) }
}

/// A tensor on the host that is still being written, so that what comes from a file or a decoder need not be copied once more.
#[derive(Debug)]
pub struct Unfinished {
    tensor: Tensor,
    bytes: usize,
}

impl Unfinished {
    /// Zeros.
    ///
    /// # Errors
    /// No memory, or a complex or quantised kind.
    pub fn zeros(shape: &[i64], kind: Kind) -> Result<Self> {
        Self::new("zeros", kind, || Tensor::f_zeros(shape, (kind, Device::Cpu)))
    }

    fn new(call: &'static str, kind: Kind, make: impl FnOnce() -> std::result::Result<Tensor, TchError>) -> Result<Self> {
        let refused = |message: String| ShimError::Argument { call, message };
        if ffi::scalar_type(kind).is_none() {
            return Err(refused(format!("{kind:?} is not a kind of plain numbers")));
        }
        let tensor = make().map_err(|error| refused(error.to_string()))?;
        let bytes = tensor.numel() * kind.elt_size_in_bytes();
        Ok(Self { tensor, bytes })
    }

    /// All of its bytes, in the order of the dimensions.
    pub fn bytes(&mut self) -> &mut [u8] {
        if self.bytes == 0 {
            return &mut [];
        }
        // SAFETY: the tensor was made here: contiguous, on the host, of that many initialised bytes, and nobody else knows of it.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.bytes) }
    }

    /// The tensor, as it is now.
    pub fn finish(self) -> Tensor {
        self.tensor
    }
}

/// The tensor on the host whose bytes are `parts`, one after the other.
///
/// # Errors
/// More or fewer bytes than the tensor has; no memory, or a complex or quantised kind.
pub fn concatenated<'a>(shape: &[i64], kind: Kind, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Tensor> {
    let call = "concatenated";
    let other_size =
        |found: usize, bytes: usize| Err(ShimError::Argument { call, message: format!("{found} bytes for a tensor of {bytes}") });
    // Not zeros: for latents, writing memory once more than needed is half of the work.
    let Unfinished { tensor, bytes } = Unfinished::new(call, kind, || Tensor::f_empty(shape, (kind, Device::Cpu)))?;
    let memory: *mut u8 = tensor.data_ptr().cast();
    let mut written = 0;
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if part.len() > bytes - written {
            return other_size(written + part.len(), bytes);
        }
        // SAFETY: the tensor was just made: contiguous and on the host; this part ends within it.
        unsafe { memory.add(written).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
        written += part.len();
    }
    if written == bytes { Ok(tensor) } else { other_size(written, bytes) }
}

/// A copy of `tensor` in pinned memory, or itself if it lies there.
///
/// # Errors
/// There is no GPU to pin it for, or no memory; `tensor` is not on the host.
pub fn pin(tensor: &Tensor) -> Result<Tensor> {
    // SAFETY: a live tensor.
    unsafe { returned("pin", |out| ffi::shim_pin(pointer(tensor), out)) }
}

/// The tensor that `function` puts into its argument.
///
/// # Safety
/// Where it returns success, it has put a new tensor there.
pub(crate) unsafe fn returned(
    call: &'static str,
    function: impl FnOnce(*mut *mut torch_sys::C_tensor) -> std::ffi::c_int,
) -> Result<Tensor> {
    let mut tensor = std::ptr::null_mut();
    check(call, function(&raw mut tensor))?;
    // SAFETY: after success it is a new `at::Tensor`, and nobody else's.
    Ok(unsafe { Tensor::from_ptr(tensor) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cuda::CudaStatus;
    use tch::Device;

    fn images() -> Tensor {
        Tensor::arange(2 * 3 * 4 * 5, (Kind::Float, Device::Cpu)).reshape([2, 3, 4, 5])
    }

    #[test]
    fn channels_last_is_another_order_of_the_same_tensor() {
        let images = images().set_requires_grad(true);
        let dense = to_memory_format(&images, MemoryFormat::ChannelsLast).unwrap();
        assert_eq!((dense.size(), dense.stride()), (vec![2, 3, 4, 5], vec![60, 1, 15, 3]));
        assert!(is_channels_last(&dense).unwrap() && !is_channels_last(&images).unwrap());
        assert!(dense.equal(&images));
        (&dense * &dense).sum(Kind::Float).backward();
        assert!(images.grad().equal(&(&images * 2.0)));
        let again = to_memory_format(&dense, MemoryFormat::ChannelsLast).unwrap();
        assert_eq!(again.data_ptr(), dense.data_ptr());
        assert_eq!(to_memory_format(&dense, MemoryFormat::Contiguous).unwrap().stride(), [60, 20, 5, 1]);
        let kernel = Tensor::ones([6, 3, 3, 3], (Kind::Float, Device::Cpu));
        assert!(is_channels_last(&dense.conv2d(&kernel, None::<Tensor>, 1, 1, 1, 1)).unwrap());
        assert!(to_memory_format(&images.get(0), MemoryFormat::ChannelsLast).is_err());
    }

    #[test]
    fn copies() {
        let source = images();
        let mut destination = source.zeros_like();
        copy_non_blocking(&mut destination, &source).unwrap();
        assert!(destination.equal(&source));
        let error = copy_non_blocking(&mut destination, &source.get(0).narrow(0, 0, 2)).unwrap_err();
        assert!(error.to_string().starts_with("copy_non_blocking: "), "{error}");
    }

    #[test]
    fn bytes_become_tensors() {
        let bytes: Vec<u8> = [1.5f32, -2.0, 0.25, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut unfinished = Unfinished::zeros(&[2, 2], Kind::Float).unwrap();
        assert!(unfinished.bytes().iter().all(|byte| *byte == 0));
        unfinished.bytes().copy_from_slice(&bytes);
        let whole = unfinished.finish();
        assert_eq!(Vec::<f32>::try_from(whole.flatten(0, -1)).unwrap(), [1.5, -2.0, 0.25, 3.0]);
        let parts = [&bytes[..3], &[], &bytes[3..]];
        assert!(concatenated(&[2, 2], Kind::Float, parts.into_iter()).unwrap().equal(&whole));
        assert_eq!(concatenated(&[0, 2], Kind::Float, [].into_iter()).unwrap().size(), [0, 2]);
        for parts in [&parts[1..], &[&bytes[..], &bytes[..1]]] {
            let error = concatenated(&[2, 2], Kind::Float, parts.iter().copied()).unwrap_err().to_string();
            assert!(error.contains("bytes for a tensor of 16"), "{error}");
        }
        assert!(Unfinished::zeros(&[2], Kind::ComplexFloat).is_err());
    }

    #[test]
    fn pinned_memory_needs_a_device() {
        let (new, copy) = (empty_pinned(&[2, 3], Kind::Float), pin(&images()));
        if let CudaStatus::Devices(_) = CudaStatus::of_this_process() {
            let (new, copy) = (new.unwrap(), copy.unwrap());
            assert!(new.is_pinned(Device::Cuda(0)) && copy.is_pinned(Device::Cuda(0)));
            assert!(new.size() == [2, 3] && copy.equal(&images()));
        } else {
            for error in [new.unwrap_err(), copy.unwrap_err()] {
                assert!(matches!(error, ShimError::NoDevice { .. }), "{error}");
            }
        }
    }
}
