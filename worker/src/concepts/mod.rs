//! The slot library: slots of many images sorted into concepts, from which new scenes are composed.

mod clusters;

pub use clusters::{Clusters, k_means};
