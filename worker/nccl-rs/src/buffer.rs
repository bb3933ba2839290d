//! What operations work on: memory of a device that somebody else owns, and a CUDA stream.

use crate::ffi::RawStream;
use std::ffi::{c_int, c_void};

/// The type of a buffer's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Unsigned bytes; sums wrap around.
    U8,
    /// Signed 64-bit integers; sums wrap around.
    I64,
    /// IEEE half precision.
    F16,
    /// Brain floating point: the upper half of an f32.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl DataType {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// `ncclDataType_t`.
    pub(crate) const fn code(self) -> c_int {
        match self {
            Self::U8 => 1,
            Self::I64 => 4,
            Self::F16 => 6,
            Self::F32 => 7,
            Self::F64 => 8,
            Self::Bf16 => 9,
        }
    }
}

/// Elements in the memory of the communicator's device, owned by somebody else.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) pointer: *mut c_void,
    pub(crate) elements: usize,
    pub(crate) data_type: DataType,
}

// SAFETY: an address and numbers; whoever made the buffer vouches for the memory behind it, whichever thread uses it.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Describes `elements` elements of `data_type` at `pointer`, which may be null if there are none.
    ///
    /// # Safety
    /// Whenever the buffer is given to an operation, the communicator's device can read and write this memory, and from then on until
    /// the stream has passed the operation it stays allocated and nobody else touches it. After a failure that means until the
    /// communicator is aborted, and for as long as the process lives if that fails too.
    #[must_use]
    pub const unsafe fn new(pointer: *mut c_void, elements: usize, data_type: DataType) -> Self {
        Self { pointer, elements, data_type }
    }
}

/// The CUDA stream in whose order an operation takes place.
#[derive(Debug, Clone, Copy)]
pub struct Stream(pub(crate) RawStream);

// SAFETY: a handle, which CUDA accepts from every thread.
unsafe impl Send for Stream {}

impl Stream {
    /// CUDA's default stream, a null handle.
    pub const DEFAULT: Self = Self(std::ptr::null_mut());

    /// Takes a `cudaStream_t`.
    ///
    /// # Safety
    /// It is null, or a stream of the communicator's device that exists as long as operations are given to it or under way in it.
    #[must_use]
    pub const unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(stream)
    }
}
