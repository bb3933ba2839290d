//! Whether a GPU can be used, and if not, what stands in the way.

use std::ffi::{CStr, c_int};
use std::fmt;

use crate::ffi;

/// A version as the CUDA runtime counts: 1000 for a major, 10 for a minor one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion(pub i32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// What this process can do with GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaStatus {
    /// This crate was compiled without its CUDA half: no streams, events and graphs.
    NotBuilt,
    /// This libtorch has no CUDA half, or the binary was linked without it.
    LibtorchWithoutCuda,
    /// libtorch is ready, and no driver is loaded.
    NoDriver,
    /// The driver is older than what this libtorch needs.
    DriverTooOld {
        /// The newest CUDA that the driver knows.
        driver: CudaVersion,
        /// What libtorch comes with.
        runtime: CudaVersion,
    },
    /// A driver, and no GPU that this process may see.
    NoDevice,
    /// The CUDA runtime does not start.
    Broken {
        /// The runtime's number of the error.
        code: i32,
        /// The runtime's words for it.
        message: String,
    },
    /// This many GPUs.
    Devices(usize),
}

/// What the C++ side finds out; `CudaFacts` in `cpp/status.cpp`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    hooks: c_int,
    runtime_found: c_int,
    driver_version: c_int,
    runtime_version: c_int,
    count_error: c_int,
    devices: c_int,
}

impl CudaStatus {
    /// The present state of affairs; [`super::status`] for short. The first call may start the driver, which takes a while.
    pub fn of_this_process() -> Self {
        Self::of(crate::BUILT_WITH_CUDA, facts(), error_text)
    }

    fn of(built: bool, facts: Facts, text: impl Fn(c_int) -> String) -> Self {
        // Numbers of `cudaError`.
        const INSUFFICIENT_DRIVER: c_int = 35;
        const STUB_LIBRARY: c_int = 34;
        const NO_DEVICE: c_int = 100;
        if facts.hooks == 0 || facts.runtime_found == 0 {
            return Self::LibtorchWithoutCuda;
        }
        match facts.count_error {
            _ if !built => Self::NotBuilt,
            STUB_LIBRARY => Self::NoDriver,
            _ if facts.driver_version == 0 => Self::NoDriver,
            INSUFFICIENT_DRIVER => {
                Self::DriverTooOld { driver: CudaVersion(facts.driver_version), runtime: CudaVersion(facts.runtime_version) }
            }
            NO_DEVICE => Self::NoDevice,
            0 => usize::try_from(facts.devices).ok().filter(|count| *count > 0).map_or(Self::NoDevice, Self::Devices),
            code => Self::Broken { code, message: text(code) },
        }
    }
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    // SAFETY: a live struct of the layout that C++ has. Where it fails nothing is found, as if nothing were there.
    let _ = unsafe { ffi::shim_cuda_facts(&raw mut facts) };
    facts
}

/// The newest CUDA that the driver knows; nothing without a driver.
pub fn driver_version() -> Option<CudaVersion> {
    Some(facts().driver_version).filter(|version| *version > 0).map(CudaVersion)
}

/// The CUDA runtime that libtorch has brought; nothing if it has brought none.
pub fn runtime_version() -> Option<CudaVersion> {
    Some(facts().runtime_version).filter(|version| *version > 0).map(CudaVersion)
}

fn error_text(code: c_int) -> String {
    // SAFETY: null, or a string of the runtime that is never freed.
    unsafe {
        let text = ffi::shim_cuda_error_text(code);
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

impl fmt::Display for CudaStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NotBuilt => formatter.write_str(
                "this build has no CUDA half: build it where the CUDA runtime's headers are (requirements.txt, or CUDA_HOME)",
            ),
            Self::LibtorchWithoutCuda => formatter.write_str("this libtorch has no CUDA half, or the binary is linked without it"),
            Self::NoDriver => formatter.write_str("no CUDA device is visible: the driver is not loaded"),
            Self::DriverTooOld { driver, runtime } => {
                write!(formatter, "the driver is too old: it knows CUDA {driver}, and libtorch needs {runtime}: update the driver")
            }
            Self::NoDevice => {
                formatter.write_str("no CUDA device is visible: the driver sees none, or CUDA_VISIBLE_DEVICES hides them")
            }
            Self::Broken { code, message } => write!(formatter, "CUDA does not start: {message} (error {code})"),
            Self::Devices(1) => formatter.write_str("1 CUDA device"),
            Self::Devices(count) => write!(formatter, "{count} CUDA devices"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Facts =
        Facts { hooks: 1, runtime_found: 1, driver_version: 13000, runtime_version: 13000, count_error: 0, devices: 2 };

    fn status(facts: Facts) -> CudaStatus {
        CudaStatus::of(true, facts, |code| format!("error text of {code}"))
    }

    #[test]
    fn names_what_stands_in_the_way() {
        assert_eq!(status(READY), CudaStatus::Devices(2));
        assert_eq!(CudaStatus::of(false, READY, |_| String::new()), CudaStatus::NotBuilt);
        assert_eq!(status(Facts { hooks: 0, ..READY }), CudaStatus::LibtorchWithoutCuda);
        assert_eq!(status(Facts { runtime_found: 0, ..READY }), CudaStatus::LibtorchWithoutCuda);
        // The runtime has one error for both: no driver, and an old one.
        assert_eq!(status(Facts { driver_version: 0, count_error: 35, devices: 0, ..READY }), CudaStatus::NoDriver);
        let old = status(Facts { driver_version: 12040, count_error: 35, devices: 0, ..READY });
        assert_eq!(old.to_string(), "the driver is too old: it knows CUDA 12.4, and libtorch needs 13.0: update the driver");
        assert_eq!(status(Facts { count_error: 100, devices: 0, ..READY }), CudaStatus::NoDevice);
        assert_eq!(status(Facts { devices: 0, ..READY }), CudaStatus::NoDevice);
        assert_eq!(
            status(Facts { count_error: 802, devices: 0, ..READY }).to_string(),
            "CUDA does not start: error text of 802 (error 802)"
        );
    }
}
