//! The channel between workers and coordinator.
//!
//! The coordinator listens on a port of the system's choosing and writes address and a fresh key into [`Address`]'s file in the run
//! folder, readable by its owner only. A worker ([`ControlClient`]) connects and both prove by the first two messages of a Noise
//! handshake (`NNpsk0`) that they know the key; after that every [`messages`] frame is encrypted and authenticated. A peer without the
//! key is dropped without having been sent a byte.

mod activity;
mod address;
mod client;
mod error;
mod frames;
pub mod messages;
mod outbox;
mod rendezvous;
mod reports;
mod server;
#[cfg(test)]
mod tests;
mod transport;

pub use activity::Activity;
pub use address::{Address, Key};
pub use client::{ControlClient, Line, LineSender, connect};
pub use error::ControlError;
pub use messages::{Failure, FailureKind, FromWorker, Hello, Phase, ProcessEnd, Progress, Pulse, Role, Spent, ToWorker};
pub use reports::{Checkup, Evaluation, Setback, SetbackKind};
pub use server::{Connection, ServerEvent, bind, serve};
