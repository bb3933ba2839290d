//! What a worker still has to say: a bounded queue in which only the newest progress waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::messages::{FromWorker, Pulse};

/// Messages that wait while the coordinator does not read; beyond this the oldest is dropped.
const LIMIT: usize = 256;

/// The queue between the job's threads and the control thread.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<FromWorker>,
    closed: bool,
}

impl Outbox {
    /// Adds a message; a waiting progress gives way to a newer one.
    pub(super) fn push(&self, message: FromWorker) {
        let mut queue = self.lock();
        if matches!(message, FromWorker::Progress(_)) {
            queue.messages.retain(|waiting| !matches!(waiting, FromWorker::Progress(_)));
        }
        if queue.messages.len() >= LIMIT {
            queue.messages.pop_front();
        }
        queue.messages.push_back(message);
        drop(queue);
        self.notify.notify_one();
    }

    /// Adds a heartbeat, in the place of one that is still waiting.
    pub(super) fn push_heartbeat(&self, pulse: Pulse) {
        let mut queue = self.lock();
        queue.messages.retain(|waiting| !matches!(waiting, FromWorker::Heartbeat(_)));
        if !queue.closed {
            queue.messages.push_back(FromWorker::Heartbeat(pulse));
        }
    }

    /// The oldest message.
    pub(super) fn pop(&self) -> Option<FromWorker> {
        self.lock().messages.pop_front()
    }

    /// Nothing more will be added.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.notify.notify_one();
    }

    /// Whether [`close`](Self::close) was called.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Closed, and everything has been taken.
    pub(super) fn is_done(&self) -> bool {
        let queue = self.lock();
        queue.closed && queue.messages.is_empty()
    }

    /// Waits until something was added or the outbox was closed since the last call.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code panics while it holds the lock, and every state of the queue is a valid one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
