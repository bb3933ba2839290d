//! Procedural textures: functions of space, so that they wrap around any solid without seams.

use super::noise;
use glam::Vec3;

/// Patterns, in the order of their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// A chessboard in three dimensions.
    Checker,
    /// Straight bands.
    Stripes,
    /// Rings about a vertical axis with some grain, as in wood.
    Wood,
    /// Bands bent by turbulence.
    Marble,
    /// Pebbles with joints in between.
    Cobbles,
    /// Round spots.
    Spots,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Self; 6] = [Self::Checker, Self::Stripes, Self::Wood, Self::Marble, Self::Cobbles, Self::Spots];
}

/// Two colours mixed by a pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct Texture {
    /// How the colours alternate.
    pub pattern: Pattern,
    /// The main colour, linear RGB.
    pub first: Vec3,
    /// The other colour.
    pub second: Vec3,
    /// Repetitions per unit of length.
    pub frequency: f32,
    /// Where in the endless pattern the surface lies.
    pub offset: Vec3,
}

impl Texture {
    /// The colour at a point.
    pub(super) fn colour(&self, point: Vec3) -> Vec3 {
        self.first.lerp(self.second, self.weight(point * self.frequency + self.offset))
    }

    /// How much of the second colour there is at `p`, from 0 to 1.
    fn weight(&self, p: Vec3) -> f32 {
        match self.pattern {
            Pattern::Checker => (p.floor().element_sum() as i32).rem_euclid(2) as f32,
            Pattern::Stripes => step(triangle((p.x + p.y + p.z) * 0.8), 0.5, 0.06),
            Pattern::Wood => {
                let wobble = 0.5 * noise::value(p * 0.8);
                let ring = triangle(p.truncate().length() * 1.1 + wobble + 0.1 * p.z);
                (0.75 * ring * ring + 0.25 * noise::value(p * Vec3::new(9.0, 9.0, 0.8))).min(1.0)
            }
            Pattern::Marble => {
                let vein = triangle(0.5 * (p.x - p.y) + 0.4 * p.z + 2.4 * noise::fractal(p));
                vein * vein * (3.0 - 2.0 * vein)
            }
            Pattern::Cobbles => {
                let (first, second) = noise::cells(p * 1.3);
                1.0 - step(second - first, 0.1, 0.05)
            }
            Pattern::Spots => 1.0 - step(noise::cells(p * 1.2).0, 0.36, 0.04),
        }
    }
}

/// A wave between 0 and 1 with straight flanks and period 1.
fn triangle(x: f32) -> f32 {
    let t = x - x.floor();
    1.0 - (2.0 * t - 1.0).abs()
}

/// 0 below `edge - width`, 1 above `edge + width`, smooth in between.
fn step(x: f32, edge: f32, width: f32) -> f32 {
    let t = ((x - edge) / (2.0 * width) + 0.5).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
