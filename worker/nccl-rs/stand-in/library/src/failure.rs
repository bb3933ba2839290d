//! Result codes, and the last failure's description for `ncclGetLastError`.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

pub(crate) const SUCCESS: c_int = 0;
pub(crate) const SYSTEM_ERROR: c_int = 2;
pub(crate) const INVALID_ARGUMENT: c_int = 4;
pub(crate) const INVALID_USAGE: c_int = 5;
pub(crate) const REMOTE_ERROR: c_int = 6;
pub(crate) const IN_PROGRESS: c_int = 7;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{words}")]
pub(crate) struct Failure {
    /// The result code.
    pub(crate) code: c_int,
    /// The particular cause.
    pub(crate) words: String,
}

impl Failure {
    pub(crate) fn system(what: &str, cause: impl std::fmt::Display) -> Self {
        Self { code: SYSTEM_ERROR, words: format!("{what}: {cause}") }
    }

    pub(crate) fn argument(words: impl Into<String>) -> Self {
        Self { code: INVALID_ARGUMENT, words: words.into() }
    }

    pub(crate) fn usage(words: impl Into<String>) -> Self {
        Self { code: INVALID_USAGE, words: words.into() }
    }

    pub(crate) fn remote(words: impl Into<String>) -> Self {
        Self { code: REMOTE_ERROR, words: words.into() }
    }
}

thread_local! {
    static LAST_WORDS: RefCell<CString> = RefCell::default();
}

/// Remembers what `ncclGetLastError` is to say on this thread.
pub(crate) fn remember(words: &str) {
    let words: Vec<u8> = words.bytes().filter(|byte| *byte != 0).collect();
    LAST_WORDS.with(|last| *last.borrow_mut() = CString::new(words).unwrap_or_default());
}

/// What was remembered on this thread; valid until it remembers something else.
pub(crate) fn last_words() -> *const c_char {
    LAST_WORDS.with(|last| last.borrow().as_ptr())
}

/// What a code means in general.
pub(crate) fn meaning(code: c_int) -> &'static CStr {
    match code {
        SUCCESS => c"no error",
        1 => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        3 => c"internal error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        IN_PROGRESS => c"operation in progress",
        _ => c"unknown result code",
    }
}
