//! What to do when: a pure state machine. It sees events with the time they happened, and answers with commands and their reasons;
//! sockets, processes, files and clocks are the coordinator's. So every decision can be tested with a clock made of numbers.
//!
//! The rules, which the tests cite:
//! - SV-1: one generation at a time; the next starts only when every process of the last is gone.
//! - SV-2: the first failure of a generation is the one that is recorded; the others follow from it.
//! - SV-3: restarts without a new checkpoint in between are limited; bad input is never tried again.
//! - SV-4: a worker that dies, hangs silently, or never reports ends its generation within a known time.
//! - SV-5: asked to stop, the workers have a grace period to save; a second request, or its end, kills them.
//! - SV-6: nothing is commanded after the end.

mod ending;
mod machine;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod workers;

use std::fmt;
use std::time::Duration;

use common::control::{Connection, FailureKind, FromWorker, Hello, ProcessEnd, ToWorker};
use common::job::Job;
use common::journal;
use serde_json::Value;

pub(crate) use machine::Supervisor;

/// Time since the coordinator started.
pub(crate) type Time = Duration;

/// What a supervisor has to know beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// What the workers do.
    pub(crate) job: Job,
    /// How many workers a generation has.
    pub(crate) world: usize,
    /// Restarts allowed without a new checkpoint in between.
    pub(crate) max_restarts: usize,
    /// Number of the first generation.
    pub(crate) first_generation: u64,
    /// Version that the workers must have.
    pub(crate) version: String,
    /// How long to wait for what.
    pub(crate) patience: Patience,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the start of a generation to the last worker's greeting.
    pub(crate) start: Duration,
    /// Between two signs of life of one worker.
    pub(crate) silence: Duration,
    /// For the exit status of a worker whose connection broke, and the other way round.
    pub(crate) cause: Duration,
    /// For workers to save and end when asked to stop.
    pub(crate) stop: Duration,
    /// For processes to end by themselves after their last message, or after SIGTERM.
    pub(crate) exit: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(180),
            silence: Duration::from_secs(60),
            cause: Duration::from_secs(3),
            stop: Duration::from_secs(30),
            exit: Duration::from_secs(10),
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A peer with the run's key has greeted.
    Joined { connection: Connection, hello: Hello },
    /// It said something.
    Said { connection: Connection, message: FromWorker },
    /// Its connection is over.
    Left { connection: Connection, error: Option<String> },
    /// One process of the generation ended; `rank` is known when the launcher starts each worker itself.
    ProcessEnded { generation: u64, rank: Option<usize>, end: ProcessEnd, remaining: usize },
    /// The user or the system asks to stop.
    Signal(StopSignal),
    /// Time has passed.
    Tick,
}

/// How a process ended, in words.
pub(crate) fn describe_end(end: ProcessEnd) -> String {
    let name = |number| nix::sys::signal::Signal::try_from(number).map_or("unknown", nix::sys::signal::Signal::as_str);
    match end {
        ProcessEnd::Signal(number) => format!("killed by signal {number} ({})", name(number)),
        ProcessEnd::Code(code) if code > 128 => format!("exit code {code}, as after signal {} ({})", code - 128, name(code - 128)),
        ProcessEnd::Code(code) => format!("exit code {code}"),
    }
}

/// A wish to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl StopSignal {
    /// The signal's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// What the coordinator shall do, and in what order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Start all processes of a generation.
    Start { generation: u64 },
    /// End its processes: SIGTERM, or SIGKILL with `force`.
    End { generation: u64, force: bool },
    /// Tell one worker something.
    Tell { connection: Connection, message: ToWorker },
    /// Close a connection; nothing it says counts any more.
    Close { connection: Connection },
    /// Write it into the journal.
    Record { generation: u64, event: journal::Event, reason: String },
    /// The launch is over.
    Finish(Outcome),
}

/// The first failure of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The generation.
    pub(crate) generation: u64,
    /// The worker, if it is one worker's failure.
    pub(crate) rank: Option<usize>,
    /// Units of work that worker had done.
    pub(crate) step: u64,
    /// Whether a restart could help.
    pub(crate) kind: FailureKind,
    /// The cause in one line.
    pub(crate) cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "rank {rank}: {}", self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

/// How a launch ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Every worker has finished; the summary is rank 0's.
    Done(Value),
    /// Stopped when asked to.
    Stopped { signal: StopSignal, saved: bool },
    /// Bad input, which no restart mends.
    BadInput(Failure),
    /// A failure; `restarts` were tried after the last new checkpoint.
    Failed { failure: Failure, restarts: usize },
}

impl Outcome {
    /// The orchestrator's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Done(_) => 0,
            Self::Failed { restarts: 0, .. } => 1,
            Self::BadInput(_) => 2,
            Self::Failed { .. } => 3,
            Self::Stopped { signal: StopSignal::Interrupt, .. } => 130,
            Self::Stopped { signal: StopSignal::Terminate, .. } => 143,
        }
    }
}

/// What the launch is about right now, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Workers are starting.
    Starting,
    /// All workers have reported.
    Running,
    /// Workers were asked to save and end.
    Stopping,
    /// A generation is over but for its last processes.
    Ending,
    /// The job did all it was to do.
    Finished,
    /// Stopped when asked to.
    Stopped,
    /// Ended by a failure.
    Failed,
}
