//! What can go wrong between a worker and the coordinator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of the control channel.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No usable address file.
    #[error("{path}: {problem}; the coordinator writes this file when `orchestrator launch` starts", path = path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection could not be opened or broke.
    #[error("control connection with {peer}: {source}")]
    Connection {
        /// Address of the other side.
        peer: String,
        /// The cause.
        source: io::Error,
    },
    /// The other side ended the connection in the middle of a frame, or before an expected answer.
    #[error("{peer} closed the control connection {when}")]
    Closed {
        /// Address of the other side.
        peer: String,
        /// At which point.
        when: &'static str,
    },
    /// The other side cannot prove that it knows the run's key, or a frame was changed on its way.
    #[error("{peer} does not hold the key of this run, or its message was changed on the way")]
    Key {
        /// Address of the other side.
        peer: String,
    },
    /// A frame longer than the protocol allows.
    #[error("a control frame of {length} bytes with {peer}, {limit} at most")]
    FrameTooLong {
        /// Address of the other side.
        peer: String,
        /// Its length.
        length: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A frame that is authentic but not a message of this version.
    #[error("a control message from {peer} that this version does not know: {problem}")]
    Message {
        /// Address of the other side.
        peer: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The other side was silent for too long.
    #[error("{peer} did not complete the handshake within {limit:?}")]
    TimedOut {
        /// Address of the other side.
        peer: String,
        /// The time it had.
        limit: Duration,
    },
    /// Rank 0 has not said where to meet.
    #[error(
        "rank 0 has not said within {limit:?} where the workers meet in NCCL: it has not come that far, or has failed; its log tells"
    )]
    NoRendezvous {
        /// The time it had.
        limit: Duration,
    },
    /// The coordinator does not want this worker.
    #[error("the coordinator refused this worker: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
}

impl ControlError {
    /// Whether the other host has stopped answering, as after a cut or a crash; a process that ends, or is stopped, does not look so.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        matches!(self, Self::Connection { source, .. } if matches!(source.kind(), TimedOut | HostUnreachable | NetworkUnreachable))
    }
}
