//! What workers, their guards and the coordinator say to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reports::{Checkup, Evaluation, Setback};

/// From a worker to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromWorker {
    /// The first message of a connection: who is speaking.
    Hello(Hello),
    /// Sent every second, whatever the job's own thread is doing.
    Heartbeat(Pulse),
    /// From rank 0: where the workers of its generation meet in NCCL. The coordinator passes it on to all of them, rank 0 included.
    Rendezvous {
        /// NCCL's unique id in hexadecimal.
        id: String,
    },
    /// How the worker's device does, before the first step.
    Checkup(Checkup),
    /// How far the job is; rank 0's drives the progress bar.
    Progress(Progress),
    /// The first unit of work since the worker started is done.
    FirstStep {
        /// Units done in all.
        step: u64,
    },
    /// From rank 0: the gradients of a step were no numbers, and that does not end the run.
    Setback(Setback),
    /// From rank 0: how the model does on held-out images.
    Evaluated(Evaluation),
    /// A checkpoint of `step` is complete and verified: restarts are free again.
    CheckpointCommitted {
        /// Optimizer steps that the checkpoint holds.
        step: u64,
        /// Seconds from the wish to save to the commit.
        seconds: f64,
    },
    /// A checkpoint was not saved, and training goes on.
    CheckpointFailed {
        /// Optimizer steps that it would hold.
        step: u64,
        /// Why, in one line.
        cause: String,
    },
    /// The last message of a worker that cannot go on.
    Failed(Failure),
    /// The last message of a worker that is done (or has stopped when asked to). Every rank says so; rank 0's summary counts.
    Finished {
        /// Figures of the job for people and scripts; `null` from ranks above 0.
        summary: Value,
        /// Whether it ended early because it, or another worker, was asked to.
        stopped: bool,
    },
    /// From a guard: the process that it guards is gone.
    Ended {
        /// How.
        end: ProcessEnd,
        /// Whether the kernel killed processes for want of memory on that host meanwhile.
        out_of_memory: bool,
    },
    /// From a guard: the launcher or the system has sent a signal that asks to end, or with `SIGUSR2` to save and go on.
    Signalled {
        /// Its name, as `SIGTERM`.
        signal: String,
    },
    /// From a guard, asked for by [`ToWorker::Stacks`]: what the threads of the process are doing.
    Stacks {
        /// Several lines.
        text: String,
    },
}

/// Which of the two processes of a rank is speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The worker itself.
    Worker,
    /// Its parent, which knows how it ends and can end it.
    Guard,
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The worker, or its guard.
    pub role: Role,
    /// Place among all workers, from 0.
    pub rank: usize,
    /// Number of workers.
    pub world: usize,
    /// Place among the workers of this host.
    pub local_rank: usize,
    /// The generation that the launcher started this worker for.
    pub generation: u64,
    /// Host name.
    pub host: String,
    /// Process id of the worker on that host.
    pub pid: u32,
    /// What it computes on, as in `cpu` or `cuda:3`.
    pub device: String,
    /// Version of the worker binary.
    pub version: String,
}

/// A worker's sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pulse {
    /// Units of work done (for training: optimizer steps).
    pub step: u64,
    /// What the job's thread is doing.
    pub phase: Phase,
    /// For how many seconds it has been doing that.
    pub phase_seconds: f64,
    /// Where its time went since the worker began.
    pub spent: Spent,
}

/// What the job's thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Loading libraries, data, weights, the checkpoint.
    Starting,
    /// Meeting the other workers in MPI or NCCL.
    Connecting,
    /// Waiting for the next batch.
    Data,
    /// Forward, backward and update; and everything that has no phase of its own.
    Compute,
    /// Inside a collective: waiting for the other workers, or moving bytes.
    Collective,
    /// Held up by a checkpoint.
    Checkpoint,
    /// Looking at held-out images between two steps.
    Evaluate,
}

impl Phase {
    /// As a part of a sentence: `rank 2 has been [..] for 31 s`.
    #[must_use]
    pub fn doing(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting to the other workers",
            Self::Data => "waiting for data",
            Self::Compute => "computing",
            Self::Collective => "in the collective",
            Self::Checkpoint => "saving a checkpoint",
            Self::Evaluate => "evaluating",
        }
    }
}

/// Seconds that the job's thread has spent in each phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// [`Phase::Starting`] and [`Phase::Connecting`].
    pub starting: f64,
    /// [`Phase::Data`].
    pub data: f64,
    /// [`Phase::Compute`].
    pub compute: f64,
    /// [`Phase::Collective`].
    pub collective: f64,
    /// [`Phase::Checkpoint`].
    pub checkpoint: f64,
    /// [`Phase::Evaluate`].
    #[serde(default)]
    pub evaluate: f64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessEnd {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl ProcessEnd {
    /// The exit code as a shell would give it: 128 + n after signal n.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code).unwrap_or(1),
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(1),
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is counted, in the plural: `steps`, `scenes`.
    pub unit: String,
    /// Units per second over the recent past.
    pub rate: f64,
    /// Figures worth watching, as `loss`.
    pub fields: BTreeMap<String, f64>,
}

/// Why a worker cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The cause in one line.
    pub cause: String,
    /// Units of work done before.
    pub step: u64,
    /// Without memory left: the images per pass that would fit, as far as the worker can tell.
    #[serde(default)]
    pub fits: Option<usize>,
}

/// What kind of failure it is: decides whether a restart could help, and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Configuration, command line or folders are wrong and will be wrong again.
    BadInput,
    /// The data set is damaged or not what the configuration says.
    BadData,
    /// The loss or a gradient is no number any more. The same steps would lead there again.
    NotFinite,
    /// No memory left, on the host or on the device.
    OutOfMemory,
    /// Another worker is gone: the consequence of a failure elsewhere.
    PeerLost,
    /// A host does not answer any more.
    LostHost,
    /// A step takes much longer than all before it.
    Hang,
    /// Anything else: a restart from the newest checkpoint may go well.
    Fault,
}

impl FailureKind {
    /// Whether starting again from the newest checkpoint could go well.
    #[must_use]
    pub fn restart_helps(self) -> bool {
        !matches!(self, Self::BadInput | Self::BadData | Self::NotFinite)
    }

    /// The exit code of a worker that fails in this way, and of an orchestrator that gives up because of it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fault | Self::PeerLost => 1,
            Self::BadInput | Self::BadData => 2,
            Self::NotFinite => 4,
            Self::OutOfMemory => 5,
            Self::LostHost => 6,
            Self::Hang => 7,
        }
    }

    /// The name in the journal and in sentences.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadInput => "bad input",
            Self::BadData => "bad data",
            Self::NotFinite => "not finite",
            Self::OutOfMemory => "out of memory",
            Self::PeerLost => "lost peer",
            Self::LostHost => "lost host",
            Self::Hang => "hang",
            Self::Fault => "fault",
        }
    }
}

/// From the coordinator to a worker or its guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToWorker {
    /// The answer to [`Hello`]: the worker belongs to the running generation.
    Welcome {
        /// That generation.
        generation: u64,
    },
    /// Where the workers of this generation meet in NCCL, as rank 0 has said.
    Rendezvous {
        /// NCCL's unique id in hexadecimal.
        id: String,
    },
    /// Save at the next step boundary and end.
    Stop {
        /// Why, in one line.
        reason: String,
    },
    /// Save at the next step boundary and go on. Jobs that save no checkpoints do nothing about it.
    Save {
        /// Who asks, in one line.
        reason: String,
    },
    /// End at once; nothing is to be saved. A guard ends the process that it guards.
    Kill {
        /// Why, in one line.
        reason: String,
    },
    /// For a guard: say what the threads of the process are doing ([`FromWorker::Stacks`]).
    Stacks,
}
