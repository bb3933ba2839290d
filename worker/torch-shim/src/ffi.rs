//! The functions of `cpp/`, each as it is defined there. All return an outcome for [`crate::error::check`] unless they say otherwise.

use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::cuda::Facts;

unsafe extern "C" {
    pub(crate) fn shim_last_error() -> *const c_char;

    pub(crate) fn shim_hook(
        tensor: *mut C_tensor,
        data: *mut c_void,
        call: extern "C" fn(*mut c_void),
        is_gone: extern "C" fn(*mut c_void) -> c_int,
        release: extern "C" fn(*mut c_void),
    ) -> c_int;
    pub(crate) fn shim_set_grad(tensor: *mut C_tensor, gradient: *mut C_tensor) -> c_int;

    pub(crate) fn shim_autocast_enter(
        cuda: c_int,
        enabled: c_int,
        kind: c_int,
        was_enabled: *mut c_int,
        previous_kind: *mut c_int,
    ) -> c_int;
    pub(crate) fn shim_autocast_leave(cuda: c_int, was_enabled: c_int, previous_kind: c_int) -> c_int;

    pub(crate) fn shim_fused_adamw(
        lists: *const *mut C_tensor,
        count: usize,
        learning_rate: f64,
        learning_rate_tensor: *mut C_tensor,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        grad_scale: *mut C_tensor,
        found_inf: *mut C_tensor,
    ) -> c_int;

    pub(crate) fn shim_contiguous(tensor: *mut C_tensor, channels_last: c_int, out: *mut *mut C_tensor) -> c_int;
    pub(crate) fn shim_is_contiguous(tensor: *mut C_tensor, channels_last: c_int, out: *mut c_int) -> c_int;
    pub(crate) fn shim_copy_non_blocking(destination: *mut C_tensor, source: *mut C_tensor) -> c_int;
    pub(crate) fn shim_empty_pinned(shape: *const i64, dimensions: usize, kind: c_int, out: *mut *mut C_tensor) -> c_int;
    pub(crate) fn shim_pin(tensor: *mut C_tensor, out: *mut *mut C_tensor) -> c_int;

    pub(crate) fn shim_deterministic_set(mode: c_int) -> c_int;
    pub(crate) fn shim_deterministic_get(mode: *mut c_int) -> c_int;
    pub(crate) fn shim_matmul_precision_set(precision: c_int) -> c_int;
    pub(crate) fn shim_matmul_precision_get(precision: *mut c_int) -> c_int;
    pub(crate) fn shim_tf32_convolutions_set(allow: c_int) -> c_int;
    pub(crate) fn shim_tf32_convolutions_get(allowed: *mut c_int) -> c_int;
    pub(crate) fn shim_random_state(cuda_device: c_int, out: *mut *mut C_tensor) -> c_int;
    pub(crate) fn shim_set_random_state(cuda_device: c_int, state: *mut C_tensor) -> c_int;

    pub(crate) fn shim_profiler_start(shapes: c_int, memory: c_int) -> c_int;
    pub(crate) fn shim_profiler_stop(path: *const c_char) -> c_int;
    pub(crate) fn shim_range_begin(name: *const c_char, length: usize, out: *mut *mut c_void) -> c_int;
    pub(crate) fn shim_range_end(range: *mut c_void) -> c_int;

    pub(crate) fn shim_cuda_facts(facts: *mut Facts) -> c_int;
    /// The text of an error of the CUDA runtime, or null.
    pub(crate) fn shim_cuda_error_text(code: c_int) -> *const c_char;
}

/// The C++ tensor behind `tensor`, as the functions above take it. tch has no interior mutability to speak of: its own operations in
/// place, too, write through such a pointer.
pub(crate) fn pointer(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// The same for a tensor that may be missing: null.
pub(crate) fn pointer_or_null(tensor: Option<&Tensor>) -> *mut C_tensor {
    tensor.map_or(std::ptr::null_mut(), pointer)
}

/// `kind` as an `at::ScalarType`.
pub(crate) fn scalar_type(kind: tch::Kind) -> Option<c_int> {
    use tch::Kind;
    Some(match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::Bool => 11,
        Kind::BFloat16 => 15,
        _ => return None,
    })
}
