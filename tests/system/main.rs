//! Whole-system tests: the real binaries as real processes, on a small experiment in a temporary folder.
//!
//! `make test` builds the binaries first; the tests take them from `target/release` (or `CARGO_TARGET_DIR`).
// A test says what it expects by panicking; clippy only knows that of functions marked #[test], not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod bad_input;
mod clouds;
mod cluster;
mod crashes;
mod evaluation;
mod full_disk;
mod importing;
mod lab;
mod light_binary;
mod nccl;
mod network_folder;
mod object_server;
mod official;
mod peers;
mod pipeline;
mod power_cut;
mod precision;
mod processes;
mod quickstart;
mod records;
mod refusals;
mod rehearsal;
mod retention;
mod saving;
mod showing;
mod slurm;
mod snapshot;
mod streaming;
mod survival;
mod torture;
mod world_size;
