//! One file per command.

pub(crate) mod checkpoints;
pub(crate) mod launch;
pub(crate) mod logs;
pub(crate) mod plan;
mod prepare;
pub(crate) mod rehearse;
pub(crate) mod status;
pub(crate) mod stop;
mod summary;
mod waiting;

pub(crate) use logs::tail;
