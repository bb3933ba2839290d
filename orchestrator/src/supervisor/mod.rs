//! What to do when: a pure state machine. It sees events with the time they happened, and answers with commands and their reasons;
//! sockets, processes, files and clocks are the coordinator's. So every decision can be tested with a clock made of numbers.
//!
//! The rules, which the tests cite:
//! - SV-1: one generation at a time; the next starts only when every worker of the last is gone, or on a host that does not answer.
//! - SV-2: the first failure of a generation is the one that is recorded; the others follow from it.
//! - SV-3: restarts without a new checkpoint in between are limited; what a restart cannot mend is never tried again.
//! - SV-4: a worker that dies, hangs or never reports, and a host that is lost, end their generation within a known time.
//! - SV-5: asked to stop, the workers have a grace period to save; a second Ctrl-C, or its end, kills them.
//! - SV-6: nothing is commanded after the end.
//! - SV-7: a generation is placed only on hosts that answer, and as long as enough of them do.
//! - SV-8: what rank 0 says of where to meet in NCCL reaches every worker of its own generation, whenever it greets, and no other.
//! - SV-9: asked for a checkpoint, all workers are told, also those of later generations, until one is committed that was begun after.

mod checkup;
#[cfg(test)]
mod device_tests;
mod ending;
mod hang;
mod hearing;
mod hosts;
mod machine;
mod pace;
#[cfg(test)]
mod properties;
mod saving;
#[cfg(test)]
mod saving_tests;
mod stopping;
mod suspicion;
#[cfg(test)]
mod tests;
mod workers;

use std::fmt;
use std::time::Duration;

use common::control::{Connection, FailureKind, FromWorker, Hello, ProcessEnd, ToWorker};
use common::job::Job;
use common::journal::{self, Revisions};
use serde_json::Value;

pub(crate) use checkup::Findings;
pub(crate) use machine::Supervisor;
pub(crate) use pace::Recent;
pub(crate) use stopping::StopReason;
pub(crate) use workers::Worker;

/// Time since the coordinator started.
pub(crate) type Time = Duration;

/// What a supervisor has to know beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// What the workers do.
    pub(crate) job: Job,
    /// Hosts that workers may be placed on, the first ones first; empty for this host alone.
    pub(crate) hosts: Vec<String>,
    /// How many of them a generation uses when all answer.
    pub(crate) nodes: usize,
    /// How few of them are enough.
    pub(crate) min_nodes: usize,
    /// Workers per host.
    pub(crate) workers_per_node: usize,
    /// Restarts allowed without a new checkpoint in between.
    pub(crate) max_restarts: usize,
    /// Number of the first generation.
    pub(crate) first_generation: u64,
    /// Version that the workers must have.
    pub(crate) version: String,
    /// What is launched, as git knows it.
    pub(crate) revisions: Revisions,
    /// The Slurm job that this is, if it is one.
    pub(crate) slurm_job: Option<String>,
    /// The coordinator's host.
    pub(crate) host: String,
    /// How long to wait for what.
    pub(crate) patience: Patience,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the start of a generation to the last worker's greeting.
    pub(crate) start: Duration,
    /// For workers that have all reported to meet in MPI or NCCL.
    pub(crate) connect: Duration,
    /// Between two signs of life of one worker.
    pub(crate) silence: Duration,
    /// For the cause of a worker's end whose connection broke.
    pub(crate) cause: Duration,
    /// For workers to save and end when asked to stop; longer if saves were seen to take longer.
    pub(crate) stop: Duration,
    /// For processes to end by themselves after their last message, or after SIGTERM.
    pub(crate) exit: Duration,
    /// Least time of a step that counts as hanging.
    pub(crate) hang: Duration,
    /// For guards to say what the threads of a hanging worker are doing.
    pub(crate) stacks: Duration,
    /// For a lost host to show that it is back, before the next generation starts without it.
    pub(crate) probe: Duration,
    /// For lost hosts to come back when too few are left.
    pub(crate) hosts: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(180),
            connect: Duration::from_secs(60),
            silence: Duration::from_secs(15),
            cause: Duration::from_secs(3),
            stop: Duration::from_secs(30),
            exit: Duration::from_secs(5),
            hang: Duration::from_secs(60),
            stacks: Duration::from_secs(3),
            probe: Duration::from_millis(1200),
            hosts: Duration::from_secs(1800),
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
    /// Its connection is over; `unreachable` when its host did not answer any more.
    Left { connection: Connection, error: Option<String>, unreachable: bool },
    /// One process of the generation ended; `rank` is known when the launcher starts each worker itself.
    ProcessEnded { generation: u64, rank: Option<usize>, end: ProcessEnd, remaining: usize },
    /// A host that was lost answers.
    HostAnswers { host: String },
    /// The user or the system asks to stop.
    Stop(StopReason),
    /// The user asks for a checkpoint; who, in words.
    Save(&'static str),
    /// It has become known what a stop that was asked for is about.
    StopIs(StopReason),
    /// The allocation ends at that time.
    Deadline(Time),
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

/// What the coordinator shall do, and in what order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Start all processes of a generation on these hosts, or on this host.
    Start { generation: u64, hosts: Vec<String> },
    /// End its processes: SIGTERM, or SIGKILL with `force`.
    End { generation: u64, force: bool },
    /// Tell a worker or a guard something.
    Tell { connection: Connection, message: ToWorker },
    /// Close a connection; nothing it says counts any more.
    Close { connection: Connection },
    /// Write it into the journal.
    Record { generation: u64, event: journal::Event, reason: String },
    /// Ask these hosts for a sign of life until each has given one.
    Probe { hosts: Vec<String> },
    /// Find out whom a stop that the system asked for comes from.
    FindReason,
    /// Keep what was found out about a generation that hangs.
    Report { generation: u64, text: String },
    /// The launch is over.
    Finish(Outcome),
}

/// How often training went on after gradients that were no numbers, in this launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Setbacks {
    /// Steps that were skipped.
    pub(crate) skipped: u64,
    /// Ways back to a checkpoint.
    pub(crate) back: u64,
}

/// A checkpoint that was not saved while training went on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Unsaved {
    /// Optimizer steps that it would hold.
    pub(crate) step: u64,
    /// Why.
    pub(crate) cause: String,
}

/// The first failure of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The generation.
    pub(crate) generation: u64,
    /// The worker, if it is one worker's failure.
    pub(crate) rank: Option<usize>,
    /// Its host, as far as known.
    pub(crate) host: Option<String>,
    /// Units of work that worker had done.
    pub(crate) step: u64,
    /// What kind of failure.
    pub(crate) kind: FailureKind,
    /// The cause in one line.
    pub(crate) cause: String,
    /// How the process ended, if that is what was seen.
    pub(crate) end: Option<ProcessEnd>,
}

impl Failure {
    /// The exit code of an orchestrator that ends because of it: the process's own, else that of the kind.
    fn exit_code(&self) -> u8 {
        match self.end.map(ProcessEnd::exit_code) {
            Some(code) if code > 0 => code,
            _ => self.kind.exit_code(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rank) = self.rank {
            write!(f, "rank {rank}")?;
            if let Some(host) = &self.host {
                write!(f, " on {host}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.cause)
    }
}

/// How a launch ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Every worker has finished; the summary is rank 0's.
    Done(Value),
    /// Stopped when asked to.
    Stopped { reason: StopReason, saved: bool },
    /// A failure; `restarts` were tried after the last new checkpoint.
    Failed { failure: Failure, restarts: usize },
}

impl Outcome {
    /// The orchestrator's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Done(_) => 0,
            Self::Failed { failure, .. } if !failure.kind.restart_helps() => failure.kind.exit_code(),
            Self::Failed { failure, restarts: 0 } => failure.exit_code(),
            Self::Failed { .. } => 3,
            Self::Stopped { reason, .. } => reason.exit_code(),
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
    /// Too few hosts answer.
    Waiting,
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
