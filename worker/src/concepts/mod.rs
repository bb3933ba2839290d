//! What slots are good for once they are found: a library of them sorted into concepts, from which new scenes are composed, and edits of
//! single scenes.

mod clusters;
mod editing;

pub use clusters::{Clusters, k_means};
pub use editing::{background, mixed, shares, without};
