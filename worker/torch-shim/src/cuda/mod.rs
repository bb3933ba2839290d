//! CUDA: what stands in the way of it.

mod status;

pub use status::CudaStatus;
pub(crate) use status::Facts;
