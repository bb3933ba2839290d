//! What both binaries share: configuration, what workers compute on, the control channel, storage, shards, the order of samples,
//! checkpoints as bytes, the journal, a worker's place among the others, git revisions, and where things lie in a run's folder. Nothing here knows a
//! tensor.

pub mod backend;
pub mod cause;
pub mod checkpoint;
pub mod config;
pub mod control;
pub mod crash;
pub mod job;
pub mod journal;
pub mod official;
pub mod place;
pub mod rehearsal;
pub mod revision;
pub mod run_dir;
pub mod sampler;
pub mod sealed;
pub mod shards;
pub mod storage;
pub mod telemetry;
