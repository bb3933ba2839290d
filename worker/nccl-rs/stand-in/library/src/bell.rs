//! Waking processes that sleep: a futex in shared memory.

use nix::libc;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// A counter that processes sleep on. All zeros is a bell that was never rung.
#[repr(C)]
pub(crate) struct Bell {
    rung: AtomicU32,
    /// How many sleep or are about to. One that is killed there is counted for ever, which only costs a system call per ring.
    sleepers: AtomicU32,
}

impl Bell {
    /// Wakes all who sleep, to look again. What they are to see has to be stored before, with `SeqCst`.
    pub(crate) fn ring(&self) {
        self.rung.fetch_add(1, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            let (operation, all) = (libc::FUTEX_WAKE, i32::MAX);
            // SAFETY: wakes the waiters of this address, and touches no memory.
            unsafe { libc::syscall(libc::SYS_futex, self.rung.as_ptr(), operation, all) };
        }
    }

    /// Sleeps until the bell is rung, or `limit` is over, or for no reason, unless `ready` already; false if `limit` is over.
    pub(crate) fn sleep(&self, limit: Duration, ready: impl Fn() -> bool) -> bool {
        self.sleepers.fetch_add(1, SeqCst);
        let heard = self.rung.load(SeqCst);
        // Who rings from here on changes `rung`, or has seen that somebody sleeps, or has stored before what `ready` sees.
        let awake = ready() || self.wait(heard, limit);
        self.sleepers.fetch_sub(1, SeqCst);
        awake
    }

    fn wait(&self, heard: u32, limit: Duration) -> bool {
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let timeout = libc::timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() };
        let (address, operation) = (self.rung.as_ptr(), libc::FUTEX_WAIT);
        // SAFETY: reads the word behind `address` and the time-out, both alive; not private, as other processes ring.
        let result =
            unsafe { libc::syscall(libc::SYS_futex, address, operation, heard, &raw const timeout, ptr::null::<u32>(), 0) };
        result == 0 || nix::errno::Errno::last() != nix::errno::Errno::ETIMEDOUT
    }
}
