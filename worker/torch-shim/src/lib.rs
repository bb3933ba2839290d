//! The C++ over libtorch for what the `tch` crate does not offer. Nothing here knows of slots or of diffusion.
//!
//! | module | what it has | what tch lacks |
//! |---|---|---|
//! | [`hooks`] | a closure that runs once a gradient is there; `.grad` as a view of a bucket | hooks; setting `.grad` |
//! | [`autocast`] | mixed precision on CPU and CUDA, bf16 or f16, nested | only CUDA, only f16 |
//! | [`optimizer`] | AdamW as one kernel, with gradient scale and overflow check on the device | `_fused_*` are excluded |
//! | [`memory`] | channels last, copies that do not wait, pinned memory | memory formats, `non_blocking` of `copy_` |
//! | [`numerics`] | deterministic algorithms, TF32, precision of matrix products | all of them |
//! | [`random`] | state of the random number generators, to save and to put back | all but the seed |
//! | [`profiler`] | a Chrome trace with our phases in it | the profiler |
//! | [`cuda`] | streams, events, graphs, memory, properties; what stands in the way of a GPU | all but counting and waiting |
//!
//! # Errors and unwinding
//!
//! Every C++ exception ends in a [`ShimError`] with libtorch's message. Nothing unwinds across the border: not C++ into Rust, and a
//! panic inside of a hook ends the process with its message.
//!
//! # How it is built
//!
//! `build.rs` compiles `cpp/` with the system's C++ compiler (about a minute) against the libtorch that torch-sys has found, nothing
//! else. [`BUILT_WITH_CUDA`] says whether the headers of the CUDA runtime were there. A package whose binaries, tests or examples link
//! libtorch depends on this crate and has two lines in its own build script; they stand at the top of `build.rs`.

// Every function of `ffi` is C; each call says why it is sound.
#![allow(unsafe_code)]

pub mod autocast;
pub mod cuda;
mod error;
mod ffi;
pub mod hooks;
pub mod memory;
pub mod numerics;
pub mod optimizer;
pub mod profiler;
pub mod random;

pub use autocast::Autocast;
pub use error::{Result, ShimError};
pub use hooks::{Hook, post_accumulate_grad_hook, set_grad};
pub use optimizer::{AdamW, LearningRate, fused_adamw};

/// Whether streams, events and graphs were compiled: whether the headers of the CUDA runtime were there.
pub const BUILT_WITH_CUDA: bool = cfg!(shim_cuda);
