//! The functions of `cpp/cuda.cpp`, each as it is defined there. Where it is not compiled, functions in their place that find no device.

use std::ffi::{c_int, c_ulonglong, c_void};

use torch_sys::C_tensor;

use super::device::{Memory, RawProperties};

macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),*);)*) => {
        #[cfg(shim_cuda)]
        unsafe extern "C" {
            $(pub(super) fn $name($($argument: $type),*) -> c_int;)*
        }
        $(
            #[cfg(not(shim_cuda))]
            pub(super) unsafe fn $name($(_: $type),*) -> c_int {
                crate::error::NO_DEVICE
            }
        )*
    };
}

functions! {
    fn shim_stream_from_pool(device: c_int, high_priority: c_int, id: *mut i64);
    fn shim_stream_default(device: c_int, id: *mut i64);
    fn shim_stream_current(device: c_int, id: *mut i64);
    fn shim_stream_make_current(device: c_int, id: i64, previous_device: *mut c_int, previous_id: *mut i64);
    fn shim_stream_restore(device: c_int, id: i64, current_device: c_int);
    fn shim_stream_query(device: c_int, id: i64, done: *mut c_int);
    fn shim_stream_synchronize(device: c_int, id: i64);
    fn shim_stream_handle(device: c_int, id: i64, handle: *mut *mut c_void);
    fn shim_stream_wait(device: c_int, id: i64, event: *mut c_void);
    fn shim_record_stream(tensor: *mut C_tensor, device: c_int, id: i64);

    fn shim_event_new(timing: c_int, out: *mut *mut c_void);
    fn shim_event_delete(event: *mut c_void);
    fn shim_event_record(event: *mut c_void, device: c_int, id: i64);
    fn shim_event_query(event: *mut c_void, done: *mut c_int);
    fn shim_event_synchronize(event: *mut c_void);
    fn shim_event_elapsed(start: *mut c_void, end: *mut c_void, milliseconds: *mut f64);

    fn shim_graph_pool(first: *mut c_ulonglong, second: *mut c_ulonglong);
    fn shim_graph_begin(first: c_ulonglong, second: c_ulonglong, out: *mut *mut c_void);
    fn shim_graph_end(graph: *mut c_void);
    fn shim_graph_replay(graph: *mut c_void);
    fn shim_graph_delete(graph: *mut c_void);

    fn shim_memory(device: c_int, out: *mut Memory);
    fn shim_reset_peak_memory(device: c_int);
    fn shim_empty_cache();
    fn shim_properties(device: c_int, out: *mut RawProperties);
}

/// A device's number as C++ has it; one that is too large is one that is not there.
pub(super) fn index(device: usize) -> c_int {
    c_int::try_from(device).unwrap_or(c_int::MAX)
}
