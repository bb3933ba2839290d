//! What slots know about their objects ("representation" in the paper): small networks that read the labels of objects off single slots.
//!
//! By the protocol of the official evaluation: one linear layer with cross-entropy per category, a network with one hidden layer as wide as
//! a slot and the mean squared error per label of figures; AdamW over all objects at once; 83 % of them to learn from. Figures are scaled to
//! [-1, 1] by the least and the largest that there are, as in the official code; for the paper's own errors that was not done.

mod chart;
mod networks;
mod readings;
mod split;
mod targets;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use chart::chart;
pub use networks::{Probe, ProbeError};
pub use readings::{Reading, constant, judge};
pub use split::split;
pub use targets::{Answer, Target};
