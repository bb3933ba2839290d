//! How near composed images are to real ones: Fréchet Inception Distance (FID) and Kernel Inception Distance (KID).
//!
//! ```text
//! inception  images -> features: the network by which published figures are made
//! frechet    features -> mean and covariance -> FID
//! kernel     features -> KID
//! ```

mod frechet;
mod inception;
mod kernel;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;

pub use frechet::{Moments, frechet_distance};
pub use inception::{FEATURES, Inception};
pub use kernel::{KernelDistance, kernel_distance};
