//! One optimizer step and what it rests on: the objective, flat parameters, the sum over the workers, AdamW, moving average, learning
//! rates, noise; its capture in CUDA graphs; held-out images; and the loop.

mod course;
pub mod detours;
pub mod dials;
pub mod ema;
pub mod graph;
pub mod held_out;
pub mod laps;
pub mod noise;
pub mod objective;
pub mod optimizer;
pub mod parameters;
mod pictures;
pub mod profile;
pub mod random;
pub mod readback;
pub mod reduction;
pub mod rehearsal;
pub mod run;
pub mod schedule;
pub mod step;
pub mod window;

#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod tests;
