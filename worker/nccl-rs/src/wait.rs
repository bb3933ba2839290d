//! Waiting for something that does not announce itself, with a deadline.

use std::time::{Duration, Instant};

/// How long a wait stays on the processor: queueing an operation takes NCCL some tens of microseconds. It does not yield, which costs a
/// whole time slice on a machine that is busy.
const AWAKE: Duration = Duration::from_micros(50);

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(1);

/// A wait with a deadline, whose looks become rarer as it goes on.
pub(crate) struct Wait {
    started: Instant,
    deadline: Duration,
}

impl Wait {
    /// Starts waiting, for `deadline` at most.
    pub(crate) fn start(deadline: Duration) -> Self {
        Self { started: Instant::now(), deadline }
    }

    /// How long it has been waited.
    pub(crate) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Lets some time pass before the next look; false, at once, if the deadline is over.
    pub(crate) fn pause(&self) -> bool {
        let waited = self.waited();
        if waited >= self.deadline {
            return false;
        }
        if waited < AWAKE {
            std::hint::spin_loop();
        } else {
            // A quarter of the time so far: what took 2 ms is noticed within 2.5 ms, and what takes a second costs no processor.
            std::thread::sleep((waited / 4).min(LONGEST).min(self.deadline.saturating_sub(waited)));
        }
        true
    }
}
