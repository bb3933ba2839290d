//! Failures that a test asks for by environment variables; they are described on top of `lib.rs`.

use crate::failure::Failure;
use std::env;
use std::ffi::c_int;

/// The version whose functions these are.
const VERSION: c_int = 22809;

/// What never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hang {
    Init,
    AllReduce,
    Abort,
}

/// What `ncclGetVersion` says.
pub(crate) fn version() -> Result<c_int, Failure> {
    let Some(version) = env::var_os("NCCL_STAND_IN_VERSION") else { return Ok(VERSION) };
    let number = version.to_str().and_then(|version| version.parse().ok());
    number.ok_or_else(|| Failure::argument(format!("NCCL_STAND_IN_VERSION={}: not a number", version.display())))
}

/// What is to hang in this process.
pub(crate) fn hang() -> Result<Option<Hang>, Failure> {
    let Some(hang) = env::var_os("NCCL_STAND_IN_HANG") else { return Ok(None) };
    match hang.to_str() {
        Some("init") => Ok(Some(Hang::Init)),
        Some("all_reduce") => Ok(Some(Hang::AllReduce)),
        Some("abort") => Ok(Some(Hang::Abort)),
        _ => Err(Failure::argument(format!("NCCL_STAND_IN_HANG={}: init, all_reduce or abort", hang.display()))),
    }
}
