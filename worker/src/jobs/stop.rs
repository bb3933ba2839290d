//! The wishes to end early and to save: raised by a signal or by the coordinator, read by the job at its own pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that goes up once and stays up. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that shares `raised`, for example with a signal handler.
    pub fn sharing(raised: Arc<AtomicBool>) -> Self {
        Self(raised)
    }

    /// Raises the flag.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether this worker was asked to end early. Others may not know yet.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A flag that goes up whenever somebody wants a checkpoint, and down when one is begun. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SaveFlag(Arc<AtomicBool>);

impl SaveFlag {
    /// A flag that shares `raised`, for example with a signal handler.
    pub fn sharing(raised: Arc<AtomicBool>) -> Self {
        Self(raised)
    }

    /// Raises the flag.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether this worker was asked for a checkpoint that was not begun yet.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers the flag: a checkpoint begins.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
