//! One optimizer step and what it rests on: flat parameters, AdamW, moving average, learning rates, random draws; and the loop.

pub mod ema;
pub mod optimizer;
pub mod parameters;
mod pictures;
pub mod random;
pub mod rehearsal;
pub mod run;
pub mod schedule;
pub mod step;
pub mod window;

#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod tests;
