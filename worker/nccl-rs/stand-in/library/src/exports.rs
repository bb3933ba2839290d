//! NCCL's C functions.

// NCCL's names.
#![allow(non_snake_case)]

use crate::communicator::Communicator;
use crate::element::Element;
use crate::failure::{Failure, IN_PROGRESS, SUCCESS, last_words, meaning, remember};
use crate::faults;
use crate::operation::{Kind, Operation};
use crate::presence::remove_stale;
use crate::segment::MAX_RANKS;
use crate::unique_id::UniqueId;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// `ncclComm_t`: an `Arc<Communicator>`, so that a call that is under way in one thread outlives `ncclCommAbort` in another.
type Handle = *mut c_void;

/// The beginning of `ncclConfig_t`, the same in all versions.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// The magic number of an `ncclConfig_t`.
const CONFIG_MAGIC: u32 = 0xcafe_beef;

/// `ncclSum`.
const SUM: c_int = 0;

/// The groups of a thread that are open, and who has operations in them.
#[derive(Default)]
struct Group {
    depth: usize,
    communicators: Vec<Arc<Communicator>>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// The result code of a call, whose failure is remembered.
fn code(result: Result<c_int, Failure>) -> c_int {
    result.unwrap_or_else(|failure| {
        remember(&failure.words);
        failure.code
    })
}

/// The communicator behind a handle.
///
/// # Safety
/// `handle` is null or that of a communicator that was neither destroyed nor aborted.
unsafe fn communicator(handle: Handle) -> Result<Arc<Communicator>, Failure> {
    if handle.is_null() {
        return Err(Failure::argument("the communicator is null"));
    }
    let pointer = handle.cast_const().cast::<Communicator>();
    // SAFETY: the handle owns one reference, so there is at least one while another is made.
    unsafe {
        Arc::increment_strong_count(pointer);
        Ok(Arc::from_raw(pointer))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    code(faults::version().and_then(|number| {
        // SAFETY: where the caller wants the version.
        unsafe { version.as_mut() }
            .map(|version| *version = number)
            .ok_or_else(|| Failure::argument("nowhere to put the version"))?;
        Ok(SUCCESS)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    remove_stale();
    code(UniqueId::new().and_then(|new| {
        // SAFETY: where the caller wants the id.
        unsafe { id.as_mut() }.map(|id| *id = new).ok_or_else(|| Failure::argument("nowhere to put the id"))?;
        Ok(SUCCESS)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    meaning(code).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_communicator: Handle) -> *const c_char {
    last_words()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommInitRankConfig(
    handle: *mut Handle,
    world: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> c_int {
    let join = || {
        let rank = usize::try_from(rank).ok().zip(usize::try_from(world).ok()).filter(|(rank, world)| rank < world);
        let place = rank.filter(|(_, world)| *world <= MAX_RANKS);
        let (rank, world) = place.ok_or_else(|| Failure::argument(format!("no rank {rank:?} of {world}, at most {MAX_RANKS}")))?;
        // SAFETY: null, or the caller's configuration.
        let blocking = match unsafe { config.as_ref() } {
            None => true,
            Some(config) if config.magic != CONFIG_MAGIC || config.size < size_of::<Config>() || config.version < 21400 => {
                return Err(Failure::argument("the configuration is not that of NCCL 2.14 or newer"));
            }
            Some(config) => config.blocking != 0,
        };
        // SAFETY: where the caller wants the handle.
        let handle = unsafe { handle.as_mut() }.ok_or_else(|| Failure::argument("nowhere to put the communicator"))?;
        *handle = std::ptr::null_mut();
        let communicator = Arc::new(Communicator::join(&id, rank, world, blocking)?);
        *handle = Arc::into_raw(communicator.clone()).cast_mut().cast();
        communicator.start()
    };
    code(join())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommGetAsyncError(handle: Handle, state: *mut c_int) -> c_int {
    // SAFETY: the caller's handle.
    let communicator = unsafe { communicator(handle) };
    code(communicator.and_then(|communicator| {
        // SAFETY: where the caller wants the state.
        let state = unsafe { state.as_mut() }.ok_or_else(|| Failure::argument("nowhere to put the state"))?;
        *state = code(communicator.poll());
        Ok(SUCCESS)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommFinalize(handle: Handle) -> c_int {
    // SAFETY: the caller's handle.
    let communicator = unsafe { communicator(handle) };
    code(communicator.and_then(|communicator| {
        communicator.finalize()?;
        communicator.start()
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommDestroy(handle: Handle) -> c_int {
    // SAFETY: the caller's handle.
    unsafe { end(handle, Communicator::leave) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommAbort(handle: Handle) -> c_int {
    // SAFETY: the caller's handle.
    unsafe { end(handle, Communicator::abort) }
}

/// Ends a communicator as `how` says, and takes the handle's reference back.
///
/// # Safety
/// That of [`communicator`]; the handle is not used any more.
unsafe fn end(handle: Handle, how: fn(&Communicator)) -> c_int {
    // SAFETY: the caller's promise.
    let communicator = unsafe { communicator(handle) };
    code(communicator.map(|communicator| {
        how(&communicator);
        // SAFETY: the reference that `ncclCommInitRankConfig` has given to the handle, which ends here.
        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&communicator)) };
        SUCCESS
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclAllReduce(
    source: *const c_void,
    target: *mut c_void,
    elements: usize,
    data_type: c_int,
    reduction: c_int,
    handle: Handle,
    _stream: *mut c_void,
) -> c_int {
    if reduction != SUM {
        return code(Err(Failure::argument(format!("the stand-in does not know reduction {reduction}, only sums"))));
    }
    // SAFETY: the caller's handle and memory.
    code(unsafe { operate(Kind::Sum, source, target, elements, data_type, handle) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclBroadcast(
    source: *const c_void,
    target: *mut c_void,
    elements: usize,
    data_type: c_int,
    root: c_int,
    handle: Handle,
    _stream: *mut c_void,
) -> c_int {
    let Some(root) = usize::try_from(root).ok().filter(|root| *root < MAX_RANKS) else {
        return code(Err(Failure::argument(format!("there is no rank {root} to broadcast from"))));
    };
    // SAFETY: the caller's handle and memory.
    code(unsafe { operate(Kind::Broadcast { root }, source, target, elements, data_type, handle) })
}

/// Starts an operation, or adds it to the open group.
///
/// # Safety
/// Those of [`communicator`] and [`Operation::new`].
unsafe fn operate(
    kind: Kind,
    source: *const c_void,
    target: *mut c_void,
    elements: usize,
    data_type: c_int,
    handle: Handle,
) -> Result<c_int, Failure> {
    // SAFETY: the caller's promise.
    let communicator = unsafe { communicator(handle) }?;
    let element = Element::from_code(data_type)?;
    if elements > 0 && (source.is_null() || target.is_null()) {
        return Err(Failure::argument(format!("{elements} elements at a null pointer")));
    }
    // SAFETY: the caller's promise.
    let operation = unsafe { Operation::new(kind, element, source.cast(), target.cast(), elements) };
    GROUP.with_borrow_mut(|group| {
        let known = group.communicators.iter().any(|known| Arc::ptr_eq(known, &communicator));
        if !known {
            communicator.check_idle()?;
        }
        communicator.add(operation)?;
        if group.depth == 0 {
            return communicator.start();
        }
        if !known {
            group.communicators.push(communicator);
        }
        Ok(SUCCESS)
    })
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupEnd() -> c_int {
    let ended = GROUP.with_borrow_mut(|group| {
        group.depth = group.depth.checked_sub(1).ok_or_else(|| Failure::usage("ncclGroupEnd without ncclGroupStart"))?;
        Ok(if group.depth == 0 { std::mem::take(&mut group.communicators) } else { Vec::new() })
    });
    code(ended.and_then(|communicators| {
        let results = communicators.iter().map(|communicator| communicator.start()).collect::<Result<Vec<_>, _>>()?;
        Ok(if results.contains(&IN_PROGRESS) { IN_PROGRESS } else { SUCCESS })
    }))
}
