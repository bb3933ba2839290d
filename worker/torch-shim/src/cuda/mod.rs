//! CUDA as tch does not have it: streams, events, graphs, memory, properties, and what stands in the way of all that.
//!
//! Without a GPU, and in a build without the CUDA half, every call is a [`ShimError::NoDevice`](crate::ShimError::NoDevice) that says why.

mod device;
mod event;
mod ffi;
mod graph;
mod status;
mod stream;

pub use device::{DeviceProperties, Memory, empty_cache, memory, properties, reset_peak_memory};
pub use event::Event;
pub use graph::{Capture, Graph, Pool};
pub(crate) use status::Facts;
pub use status::{CudaStatus, CudaVersion, driver_version, runtime_version};
pub use stream::{Priority, Stream, StreamGuard, record_stream};

/// What this process can do with GPUs: to be shown where a worker starts.
pub fn status() -> CudaStatus {
    CudaStatus::of_this_process()
}
