//! Switches of the whole process that trade speed for reproducibility or for precision. Set them before the first computation.

use std::ffi::c_int;

use crate::error::{Result, check};
use crate::ffi;

/// What becomes of operations whose result may differ from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Determinism {
    /// The fastest algorithm, whatever it is.
    Off,
    /// Deterministic algorithms, and an error where there is none. On CUDA, matrix products also need `CUBLAS_WORKSPACE_CONFIG=:4096:8`
    /// in the environment before the process starts.
    Required,
    /// Deterministic algorithms, and a warning where there is none.
    Preferred,
}

/// How f32 matrix products on CUDA are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In f32.
    Highest,
    /// In TF32 (10 bits of mantissa) or as sums of bf16 products.
    High,
    /// In bf16 where that is faster.
    Medium,
}

/// Sets [`Determinism`] for libtorch and cuDNN.
///
/// # Errors
/// As libtorch has them.
pub fn set_determinism(determinism: Determinism) -> Result<()> {
    let mode = match determinism {
        Determinism::Off => 0,
        Determinism::Required => 1,
        Determinism::Preferred => 2,
    };
    // SAFETY: a plain integer in the range that the function knows.
    check("set_determinism", unsafe { ffi::shim_deterministic_set(mode) })
}

/// What [`set_determinism`] has set.
///
/// # Errors
/// As libtorch has them.
pub fn determinism() -> Result<Determinism> {
    // SAFETY: a function with a pointer to an integer.
    let mode = unsafe { read("determinism", ffi::shim_deterministic_get) }?;
    Ok(match mode {
        0 => Determinism::Off,
        1 => Determinism::Required,
        _ => Determinism::Preferred,
    })
}

/// Sets [`MatmulPrecision`]. It also decides whether oneDNN may round f32 products on the CPU.
///
/// # Errors
/// As libtorch has them.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<()> {
    let code = match precision {
        MatmulPrecision::Highest => 0,
        MatmulPrecision::High => 1,
        MatmulPrecision::Medium => 2,
    };
    // SAFETY: a plain integer in the range that the function knows.
    check("set_matmul_precision", unsafe { ffi::shim_matmul_precision_set(code) })
}

/// What [`set_matmul_precision`] has set.
///
/// # Errors
/// As libtorch has them.
pub fn matmul_precision() -> Result<MatmulPrecision> {
    // SAFETY: a function with a pointer to an integer.
    let code = unsafe { read("matmul_precision", ffi::shim_matmul_precision_get) }?;
    Ok(match code {
        0 => MatmulPrecision::Highest,
        1 => MatmulPrecision::High,
        _ => MatmulPrecision::Medium,
    })
}

/// Whether cuDNN may compute f32 convolutions in TF32: libtorch's default is that it may.
///
/// # Errors
/// As libtorch has them.
pub fn set_tf32_convolutions(allow: bool) -> Result<()> {
    // SAFETY: a plain integer.
    check("set_tf32_convolutions", unsafe { ffi::shim_tf32_convolutions_set(allow.into()) })
}

/// What [`set_tf32_convolutions`] has set.
///
/// # Errors
/// As libtorch has them.
pub fn tf32_convolutions() -> Result<bool> {
    // SAFETY: a function with a pointer to an integer.
    Ok(unsafe { read("tf32_convolutions", ffi::shim_tf32_convolutions_get) }? != 0)
}

/// The integer that `function` writes.
///
/// # Safety
/// It asks no more of its argument than to be the pointer of an integer.
unsafe fn read(call: &'static str, function: unsafe extern "C" fn(*mut c_int) -> c_int) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: a live integer.
    check(call, unsafe { function(&raw mut value) })?;
    Ok(value)
}
