//! A small safe binding to NVIDIA's NCCL, for programs that must not hang.
//!
//! - **Found at run time.** Nothing of CUDA or NCCL is needed to build. [`Nccl::load`] takes the library that `NCCL_LIB` names, else the
//!   NCCL that is in the process already (libtorch, for one, brings it), else what the loader finds. That there is none, or an old one,
//!   is an error that says what was tried.
//! - **Never blocking.** Every communicator is made with `blocking = 0`, and whatever NCCL does in the background is waited for with a
//!   deadline. Even giving up has one: [`Communicator::abort`] returns when the driver does not.
//! - **Errors with NCCL's own words**, the operation, the rank and the world.
//! - **The program's own channel.** Ranks find each other by a [`UniqueId`], 128 bytes that travel by any means: a control connection, a
//!   file, MPI. NCCL is bootstrapped without MPI.
//! - **Somebody else's memory.** A [`Buffer`] is a pointer and a length, a [`Stream`] a `cudaStream_t`: no framework, no allocator.
//!
//! What there is: all-reduce (sum), broadcast, groups, asynchronous errors, finalize and abort. Versions from 2.18 on.
//!
//! # Example
//!
//! One rank of a world, in the thread that owns the communicator:
//!
//! ```no_run
//! use nccl_rs::{Buffer, Communicator, DataType, Nccl, Options, Stream, UniqueId};
//! use std::time::Duration;
//!
//! # fn others_are_told(_: UniqueId) {}
//! # fn told_by_rank_0() -> String { String::new() }
//! # fn passed(_: Stream) -> bool { true }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (rank, world) = (0, 2);
//! # let (gradients, elements) = (std::ptr::null_mut(), 0);
//! let nccl = Nccl::load()?;
//! let id = if rank == 0 { nccl.unique_id()? } else { told_by_rank_0().parse()? };
//! if rank == 0 {
//!     others_are_told(id);
//! }
//! let mut communicator = Communicator::connect(&nccl, id, rank, world, Duration::from_secs(60), Options::default())?;
//!
//! // SAFETY: device memory that stays allocated, and that nothing else touches until the stream has passed.
//! let bucket = unsafe { Buffer::new(gradients, elements, DataType::F32) };
//! let stream = Stream::DEFAULT;
//! communicator.all_reduce_sum(&bucket, stream)?;
//! while !passed(stream) {
//!     if let Err(error) = communicator.async_error() {
//!         communicator.abort(Duration::from_secs(10))?;
//!         return Err(error.into());
//!     }
//!     std::thread::yield_now();
//! }
//! communicator.finalize(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! # When a rank fails
//!
//! The operations of the others never end, or end in an error, depending on how the rank went. So whoever waits for a stream polls
//! [`Communicator::async_error`] and has a deadline of its own, and on the first failure calls [`Communicator::abort`]. The ranks that
//! are left can meet again under a new id. If `abort` says [`Error::Stuck`], only the end of the process helps.

#![allow(unsafe_code)]

mod buffer;
mod communicator;
mod end;
mod error;
mod ffi;
mod group;
mod load;
mod unique_id;
mod version;
mod wait;

pub use buffer::{Buffer, DataType, Stream};
pub use communicator::{Communicator, Options};
pub use error::{Code, Error, Words};
pub use group::Group;
pub use load::{LoadError, Nccl, Source, VARIABLE};
pub use unique_id::{UniqueId, UniqueIdError};
pub use version::Version;
