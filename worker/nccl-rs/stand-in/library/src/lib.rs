//! A stand-in for NCCL: its C functions over shared memory, for the processes of one host and memory of the CPU.
//!
//! Programs that are written for NCCL meet it as `NCCL_LIB=.../libnccl_stand_in_library.so` and are tested with it on machines without
//! a GPU: real processes, real waiting, real deaths.
//!
//! # What it does
//!
//! - `ncclAllReduce` (sum) and `ncclBroadcast` of u8, i64, f16, bf16, f32 and f64, among 1 to 64 ranks. Sums are formed in rank order,
//!   those of f16 and bf16 in f32 and rounded once, so all ranks have the same bits, in every run.
//! - Streams are ignored: an operation is done when its call has returned `ncclSuccess`, or else when `ncclCommGetAsyncError` says
//!   success after it has said `ncclInProgress`. Work goes on only inside of calls, so a caller has to go on asking.
//! - With `blocking = 0` the functions return `ncclInProgress` after a short time; connecting takes until all ranks have come. Otherwise
//!   they wait for as long as it takes.
//! - When a process dies, however it dies, the ranks that need it get `ncclRemoteError` within a tenth of a second, and when a rank calls
//!   `ncclCommAbort`, all others get it at once, as does a thread that is waiting in an operation of the same communicator.
//! - Ranks that disagree about an operation get `ncclInvalidUsage`; NCCL itself would hang or sum garbage.
//!
//! An id names a file in `/dev/shm`, which is unlinked as soon as all ranks have opened it. One that is left behind by processes that
//! died before is removed by the next `ncclGetUniqueId` after a minute.
//!
//! What it does not do: devices, several communicators in one group with blocking calls, everything else of NCCL.
//!
//! # Failures on demand
//!
//! | environment variable | effect in this process |
//! |---|---|
//! | `NCCL_STAND_IN_VERSION=21000` | `ncclGetVersion` says so; 22809 otherwise |
//! | `NCCL_STAND_IN_HANG=init` | connecting never ends, and the other ranks do not see this one |
//! | `NCCL_STAND_IN_HANG=all_reduce` | all-reduces never end, and the other ranks wait for this one |
//! | `NCCL_STAND_IN_HANG=abort` | `ncclCommAbort` never returns, and the other ranks are not told |

#![allow(unsafe_code)]

mod bell;
mod communicator;
mod element;
mod exports;
mod failure;
mod faults;
mod operation;
mod presence;
mod segment;
mod unique_id;
