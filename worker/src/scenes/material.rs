//! What surfaces are made of: CLEVR's colours and two materials, or textures.

use super::texture::Texture;
use glam::Vec3;

/// CLEVR's colours: gray, red, blue, green, brown, purple, cyan, yellow.
pub const PALETTE: [Vec3; 8] = [
    rgb(87, 87, 87),
    rgb(173, 35, 35),
    rgb(42, 75, 215),
    rgb(29, 105, 20),
    rgb(129, 74, 25),
    rgb(129, 38, 192),
    rgb(41, 208, 208),
    rgb(255, 238, 51),
];

const fn rgb(r: u8, g: u8, b: u8) -> Vec3 {
    Vec3::new(r as f32 / 255.0, g as f32 / 255.0, b as f32 / 255.0)
}

/// How a plain surface throws light back, in the order of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Material {
    /// Matte.
    Rubber,
    /// Shiny: a bright highlight, and the room mirrored in it.
    Metal,
}

impl Material {
    /// Both materials.
    pub const ALL: [Self; 2] = [Self::Rubber, Self::Metal];

    /// Strength of the light's highlight.
    pub(super) fn highlight(self) -> f32 {
        match self {
            Self::Rubber => 0.08,
            Self::Metal => 0.7,
        }
    }
}

/// The surface of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Surface {
    /// One colour.
    Plain(Vec3, Material),
    /// A texture in the object's own coordinates.
    Textured(Texture),
}

impl Surface {
    /// The surface's class in the attribute table: the materials, then the patterns of textures.
    pub fn code(&self) -> usize {
        match self {
            Self::Plain(_, material) => *material as usize,
            Self::Textured(texture) => Material::ALL.len() + texture.pattern as usize,
        }
    }

    /// The colour at a point in the object's own coordinates.
    pub(super) fn colour(&self, local: Vec3) -> Vec3 {
        match self {
            Self::Plain(colour, _) => *colour,
            Self::Textured(texture) => texture.colour(local),
        }
    }

    /// What the surface does with light apart from scattering it.
    pub(super) fn material(&self) -> Material {
        match self {
            Self::Plain(_, material) => *material,
            Self::Textured(_) => Material::Rubber,
        }
    }
    /// The colour that the surface gives to the room mirrored in it; `None` if it mirrors nothing.
    pub(super) fn mirror_tint(&self) -> Option<Vec3> {
        match self {
            Self::Plain(colour, Material::Metal) => Some(Vec3::ONE.lerp(*colour / colour.max_element(), 0.7)),
            _ => None,
        }
    }
}
