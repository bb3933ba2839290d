//! What workers and coordinator say to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// From a worker to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromWorker {
    /// The first message of a connection: who is speaking.
    Hello(Hello),
    /// Sent every second while there is nothing else to say.
    Heartbeat {
        /// Units of work done so far (for training: optimizer steps).
        step: u64,
    },
    /// How far the job is; rank 0's drives the progress bar.
    Progress(Progress),
    /// A checkpoint of `step` is complete and verified: restarts are free again.
    CheckpointCommitted {
        /// Optimizer steps that the checkpoint holds.
        step: u64,
    },
    /// The last message of a worker that cannot go on.
    Failed(Failure),
    /// The last message of a worker that is done (or has stopped when asked to). Every rank says so; rank 0's summary counts.
    Finished {
        /// Figures of the job for people and scripts; `null` from ranks above 0.
        summary: Value,
    },
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
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
    /// Process id on that host.
    pub pid: u32,
    /// What it computes on, as in `cpu` or `cuda:3`.
    pub device: String,
    /// Version of the worker binary.
    pub version: String,
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
    /// Whether a restart could help.
    pub kind: FailureKind,
    /// The cause in one line.
    pub cause: String,
    /// Units of work done before.
    pub step: u64,
}

/// Whether a restart could help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Configuration or data are wrong and will be wrong again: no restart.
    BadInput,
    /// Anything else: a restart from the newest checkpoint may go well.
    Fault,
}

/// From the coordinator to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToWorker {
    /// The answer to [`Hello`]: the worker belongs to the running generation.
    Welcome {
        /// That generation.
        generation: u64,
    },
    /// Save at the next step boundary and end.
    Stop {
        /// Why, in one line.
        reason: String,
    },
    /// End at once; nothing is to be saved.
    Kill {
        /// Why, in one line.
        reason: String,
    },
}
