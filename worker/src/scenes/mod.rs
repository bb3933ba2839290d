//! The built-in data set: ray-traced rooms in the manner of CLEVR, or of CLEVRTex when textured.
//!
//! A ground plane, three to six cubes, spheres and cylinders in two sizes, CLEVR's eight colours and two materials, an area light that
//! throws soft shadows, and a camera and a light that are never twice in the same place. Scene `i` of a split is a pure function of
//! (seed, split, i): the same room whatever the number of scenes or workers, and the same room at every resolution. Pixels use only
//! arithmetic that IEEE 754 fixes, so the bytes are the same on every machine.

mod camera;
mod geometry;
mod layout;
mod material;
mod noise;
mod render;
#[cfg(test)]
mod tests;
mod texture;

pub use camera::Camera;
pub use geometry::{Shape, Solid};
pub use layout::{Object, Scene, Size};
pub use material::{Material, PALETTE, Surface};
pub use texture::{Pattern, Texture};

/// Most objects that a scene can hold: rows of its attribute table.
pub const MAX_OBJECTS: usize = 10;

/// Figures per object: shape, colour, material, size, x, y, rotation, visible pixels; `common::shards::object_labels` names them.
pub const ATTRIBUTES: usize = 8;

/// Smallest resolution at which every object of every scene covers a pixel.
pub const MIN_RESOLUTION: usize = 32;

/// What the scenes of a data set have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SceneOptions {
    /// Fewest objects in a scene.
    pub min_objects: usize,
    /// Most objects in a scene, at most [`MAX_OBJECTS`].
    pub max_objects: usize,
    /// Procedural textures on objects and ground instead of plain colours.
    pub textured: bool,
    /// Seed of the data set.
    pub seed: u64,
}

/// The two parts of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Scenes to learn from.
    Train,
    /// Scenes held out for evaluation.
    Validation,
}

impl Split {
    /// Both splits.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The split's name in folder names and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// One sample of the data set at one resolution R.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendering {
    /// The picture, RGB, `[R, R, 3]`.
    pub image: Vec<u8>,
    /// Instance of every pixel's centre, `[R, R]`: 0 for the ground, 1..=n for the objects.
    pub mask: Vec<u8>,
    /// `[MAX_OBJECTS, ATTRIBUTES]`: row k describes instance k + 1, and is -1 throughout where there is none.
    pub attributes: Vec<f32>,
}

/// Draws scene `index` of `split` as a square of `resolution` pixels.
pub fn draw(options: &SceneOptions, split: Split, index: u64, resolution: usize) -> Rendering {
    let scene = Scene::sample(options, split, index);
    let mask = render::mask(&scene, resolution);
    Rendering { image: render::image(&scene, resolution), attributes: attributes(&scene, &mask), mask }
}

/// The attribute table of a scene whose instance mask is `mask`.
fn attributes(scene: &Scene, mask: &[u8]) -> Vec<f32> {
    let mut table = vec![-1.0; MAX_OBJECTS * ATTRIBUTES];
    for (k, (object, row)) in scene.objects.iter().zip(table.chunks_exact_mut(ATTRIBUTES)).enumerate() {
        let visible = mask.iter().filter(|&&id| usize::from(id) == k + 1).count();
        row.copy_from_slice(&[
            object.solid.shape as u8 as f32,
            object.colour as f32,
            object.surface.code() as f32,
            object.size as u8 as f32,
            object.solid.centre.x,
            object.solid.centre.y,
            object.rotation,
            visible as f32,
        ]);
    }
    table
}
