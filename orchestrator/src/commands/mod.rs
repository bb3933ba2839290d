//! One file or folder per command.

pub(crate) mod checkpoint;
pub(crate) mod checkpoints;
pub(crate) mod goodput;
pub(crate) mod launch;
pub(crate) mod list;
pub(crate) mod logs;
mod output;
pub(crate) mod plan;
mod prepare;
pub(crate) mod rehearse;
pub(crate) mod report;
pub(crate) mod shards;
pub(crate) mod status;
pub(crate) mod stop;
mod summary;
pub(crate) mod top;
mod waiting;
pub(crate) mod why;
pub(crate) mod words;

pub(crate) use logs::tail;
