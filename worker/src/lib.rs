//! The heavy half: one process per GPU (or CPU share) that owns tensors and runs one job.

pub mod checkpointing;
pub mod collectives;
pub mod concepts;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod evaluation;
pub mod inference;
pub mod jobs;
pub mod metrics;
pub mod model;
pub mod probing;
pub mod scenes;
pub mod training;
