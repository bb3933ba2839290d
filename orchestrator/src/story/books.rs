//! The books of the goodput ledger: what the time of a run was spent on.

use std::ops::{AddAssign, SubAssign};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// What a stretch of time was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Book {
    /// Waiting for Slurm.
    Queue,
    /// From the launch to the first step.
    Start,
    /// Steps that were done for the first time.
    Useful,
    /// Steps held up by checkpoints, and the last save of a generation.
    Checkpoint,
    /// Steps held up by a look at held-out images.
    Evaluation,
    /// Steps waiting for data.
    DataStall,
    /// Steps in the collective: waiting for other ranks, or moving gradients.
    Waiting,
    /// From a failure to the first step after it, and what went by before it was noticed.
    Restart,
    /// Steps that had been done before a failure.
    Redone,
    /// Nobody in charge.
    Stopped,
}

impl Book {
    /// All of them, in the order of a table.
    pub(crate) const ALL: [Self; 10] = [
        Self::Useful,
        Self::DataStall,
        Self::Waiting,
        Self::Checkpoint,
        Self::Evaluation,
        Self::Redone,
        Self::Restart,
        Self::Start,
        Self::Queue,
        Self::Stopped,
    ];

    /// The name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Start => "start",
            Self::Useful => "useful",
            Self::Checkpoint => "checkpoint",
            Self::Evaluation => "evaluation",
            Self::DataStall => "data stall",
            Self::Waiting => "collective",
            Self::Restart => "restart",
            Self::Redone => "redone work",
            Self::Stopped => "stopped",
        }
    }

    /// What is in it, for people.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Self::Queue => "waiting for Slurm",
            Self::Start => "from the launch to the first step",
            Self::Useful => "steps done for the first time",
            Self::Checkpoint => "steps held up by checkpoints",
            Self::Evaluation => "looking at held-out images between steps",
            Self::DataStall => "steps waiting for data",
            Self::Waiting => "waiting for other ranks, or moving gradients",
            Self::Restart => "from a failure to the next step",
            Self::Redone => "steps that a failure had undone",
            Self::Stopped => "nobody in charge",
        }
    }
}

/// How much time is in each book.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Books([Duration; 10]);

impl Books {
    /// What is in one.
    pub(crate) fn get(&self, book: Book) -> Duration {
        self.0[book as usize]
    }

    pub(super) fn add(&mut self, book: Book, time: Duration) {
        self.0[book as usize].add_assign(time);
    }

    /// What is in all of them.
    pub(crate) fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// The time in which there were hosts to work on.
    pub(crate) fn allocated(&self) -> Duration {
        self.total().saturating_sub(self.get(Book::Queue)).saturating_sub(self.get(Book::Stopped))
    }

    /// The useful share of that time; none before there was any.
    pub(crate) fn goodput(&self) -> Option<f64> {
        let allocated = self.allocated().as_secs_f64();
        (allocated > 0.0).then(|| self.get(Book::Useful).as_secs_f64() / allocated)
    }
}

impl Serialize for Books {
    /// Seconds per book, `data stall` as `data_stall`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Book::ALL.map(|book| (book.name().replace(' ', "_"), self.get(book).as_secs_f64())))
    }
}

/// Takes the share `of` out of what is `left` of a time.
pub(super) fn take(left: &mut Duration, of: Duration, share: Option<f64>) -> Duration {
    let share = share.filter(|share| share.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0);
    let taken = of.mul_f64(share).min(*left);
    left.sub_assign(taken);
    taken
}
