//! How good the slots are at finding objects: figures over labels, and pictures to look at. Only [`fid`] knows tensors, and a picture those of
//! an image.

mod captions;
pub mod fid;
mod hungarian;
mod lettering;
mod naming;
mod palette;
mod pictures;
mod position;
mod segmentation;
mod slots;

pub use captions::{captioned, numbered};
pub use hungarian::assign;
pub use naming::in_colours_of_truth;
pub use palette::colour;
pub use pictures::{Picture, PictureError, grid, tile_side};
pub use position::position_cells;
pub use segmentation::{Figures, ImageFigures, ObjectFigures, Sums, match_labels, score};
pub use slots::{ImageSlots, SlotFigures, SlotSums, attention_entropy, shares, similarity};
