//! A GPU's memory, as libtorch's allocator has it, and its properties.

use std::ffi::{CStr, c_char, c_int};

use super::ffi::{self, index};
use crate::error::{Result, check};

/// Memory of a device, in bytes; `Memory` in `cpp/cuda.cpp`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Free, by the driver's count: other processes count, libtorch's cache does not.
    pub free: u64,
    /// The device's.
    pub total: u64,
    /// Of tensors that are alive.
    pub allocated: u64,
    /// Of tensors and of libtorch's cache.
    pub reserved: u64,
    /// Largest `allocated` since the start or [`reset_peak_memory`].
    pub peak_allocated: u64,
    /// Largest `reserved` since then.
    pub peak_reserved: u64,
}

/// The memory of `device` now.
///
/// # Errors
/// There is no such device.
pub fn memory(device: usize) -> Result<Memory> {
    let mut memory = Memory::default();
    // SAFETY: a live struct of the layout that C++ has.
    check("cuda::memory", unsafe { ffi::shim_memory(index(device), &raw mut memory) })?;
    Ok(memory)
}

/// Lets the peaks begin again at what is allocated now.
///
/// # Errors
/// There is no such device.
pub fn reset_peak_memory(device: usize) -> Result<()> {
    // SAFETY: a plain integer.
    check("cuda::reset_peak_memory", unsafe { ffi::shim_reset_peak_memory(index(device)) })
}

/// Gives libtorch's cached memory of all devices back to the driver.
///
/// # Errors
/// There is no GPU.
pub fn empty_cache() -> Result<()> {
    // SAFETY: no arguments.
    check("cuda::empty_cache", unsafe { ffi::shim_empty_cache() })
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProperties {
    /// As its maker calls it.
    pub name: String,
    /// Compute capability, as 9 and 0.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of memory.
    pub total_memory: u64,
    /// Where it is plugged in, as `0000:3b:00.0`: the same for all processes, whatever `CUDA_VISIBLE_DEVICES` numbers it.
    pub pci_bus_id: String,
}

/// `Properties` in `cpp/cuda.cpp`.
#[repr(C)]
pub(super) struct RawProperties {
    name: [c_char; 256],
    major: c_int,
    minor: c_int,
    multiprocessors: c_int,
    pci_domain: c_int,
    pci_bus: c_int,
    pci_device: c_int,
    total_memory: u64,
}

/// What `device` is.
///
/// # Errors
/// There is no such device.
pub fn properties(device: usize) -> Result<DeviceProperties> {
    let mut raw = RawProperties {
        name: [0; 256],
        major: 0,
        minor: 0,
        multiprocessors: 0,
        pci_domain: 0,
        pci_bus: 0,
        pci_device: 0,
        total_memory: 0,
    };
    // SAFETY: a live struct of the layout that C++ has.
    check("cuda::properties", unsafe { ffi::shim_properties(index(device), &raw mut raw) })?;
    // SAFETY: C++ leaves the last byte zero.
    let name = unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(DeviceProperties {
        name,
        capability: (raw.major, raw.minor),
        multiprocessors: raw.multiprocessors,
        total_memory: raw.total_memory,
        pci_bus_id: format!("{:04x}:{:02x}:{:02x}.0", raw.pci_domain, raw.pci_bus, raw.pci_device),
    })
}
