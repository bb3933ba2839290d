//! NCCL's C interface, as far as it is used: the layouts that cross it, and the table of functions, filled at run time.
//!
//! Everything here follows `nccl.h` of 2.28. Result codes and enumerations cross as plain integers: a newer library may return
//! values that this crate has no name for.

use libloading::os::unix::Library;
use std::ffi::{c_char, c_int, c_void};

/// `ncclComm_t`.
pub(crate) type RawCommunicator = *mut c_void;

/// `cudaStream_t`.
pub(crate) type RawStream = *mut c_void;

/// Bytes of an `ncclUniqueId`.
pub(crate) const UNIQUE_ID_BYTES: usize = 128;

/// `ncclUniqueId`, which is passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawUniqueId(pub(crate) [u8; UNIQUE_ID_BYTES]);

/// `ncclSum`.
pub(crate) const SUM: c_int = 0;

/// `NCCL_CONFIG_UNDEF_INT`: NCCL decides.
const UNDEFINED: c_int = c_int::MIN;

/// The version whose `ncclConfig_t` is [`Config`].
const CONFIG_VERSION: u32 = 22809;

/// `ncclConfig_t` of NCCL 2.28. Older libraries read the beginning that they know, newer ones fill in what they have added: which
/// fields are there follows from `size` and `version`, so `version` is that of this layout and not that of the library.
#[repr(C)]
pub(crate) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
    comm_name: *const c_char,
    collnet_enable: c_int,
    cta_policy: c_int,
    shrink_share: c_int,
    nvls_ctas: c_int,
    channels_per_net_peer: c_int,
    nvlink_centric_sched: c_int,
}

impl Config {
    /// A communicator whose calls return before they are done, everything else as NCCL decides.
    pub(crate) const fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: CONFIG_VERSION,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
            comm_name: std::ptr::null(),
            collnet_enable: UNDEFINED,
            cta_policy: UNDEFINED,
            shrink_share: UNDEFINED,
            nvls_ctas: UNDEFINED,
            channels_per_net_peer: UNDEFINED,
            nvlink_centric_sched: UNDEFINED,
        }
    }
}

/// Declares [`Table`] and how it is filled.
macro_rules! table {
    ($($name:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of one NCCL library, under their names without `nccl`.
        pub(crate) struct Table {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Table {
            /// Looks every function up in `library`, or names the first that is missing.
            ///
            /// # Safety
            /// `library` is an NCCL, and stays loaded for as long as the table is used.
            pub(crate) unsafe fn resolve(library: &Library) -> Result<Self, &'static str> {
                $(
                    // SAFETY: the type is that of this function in `nccl.h`; the caller vouches for the library.
                    let $name = unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol.as_bytes()) };
                    let $name = *$name.map_err(|_| $symbol)?;
                )*
                Ok(Self { $($name),* })
            }
        }
    };
}

table! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
    get_unique_id = "ncclGetUniqueId": fn(*mut RawUniqueId) -> c_int;
    comm_init_rank_config = "ncclCommInitRankConfig": fn(*mut RawCommunicator, c_int, RawUniqueId, c_int, *mut Config) -> c_int;
    comm_finalize = "ncclCommFinalize": fn(RawCommunicator) -> c_int;
    comm_destroy = "ncclCommDestroy": fn(RawCommunicator) -> c_int;
    comm_abort = "ncclCommAbort": fn(RawCommunicator) -> c_int;
    comm_get_async_error = "ncclCommGetAsyncError": fn(RawCommunicator, *mut c_int) -> c_int;
    get_error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
    get_last_error = "ncclGetLastError": fn(RawCommunicator) -> *const c_char;
    all_reduce = "ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, RawCommunicator, RawStream) -> c_int;
    broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, RawCommunicator, RawStream) -> c_int;
    group_start = "ncclGroupStart": fn() -> c_int;
    group_end = "ncclGroupEnd": fn() -> c_int;
}

#[cfg(test)]
mod tests;
