//! Where a worker waits for the id by which all workers of its generation meet in NCCL.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The id, once the coordinator has passed it on.
#[derive(Debug, Default)]
pub(super) struct Rendezvous {
    id: Mutex<Option<String>>,
    told: Condvar,
}

impl Rendezvous {
    /// The coordinator has told it; the first one counts.
    pub(super) fn tell(&self, id: String) {
        self.lock().get_or_insert(id);
        self.told.notify_all();
    }

    /// Waits for it, `limit` at most.
    pub(super) fn wait(&self, limit: Duration) -> Option<String> {
        let waited = self.told.wait_timeout_while(self.lock(), limit, |id| id.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // Nothing panics while it holds the lock, and both states are valid ones.
        self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
