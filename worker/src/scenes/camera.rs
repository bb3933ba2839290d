//! A pinhole camera that looks at the middle of the room.

use super::geometry::Ray;
use glam::{Vec2, Vec3};

/// Half the field of view's extent at distance 1: tan(38 degrees / 2).
const HALF_EXTENT: f32 = 0.344_327_6;
/// What the camera looks at.
const TARGET: Vec3 = Vec3::new(0.0, 0.0, 0.3);

/// Position and orthonormal axes of the camera. The ground is z = 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    position: Vec3,
    forward: Vec3,
    right: Vec3,
    up: Vec3,
}

impl Camera {
    /// A camera at `distance` from the origin, `elevation` radians above the ground, turned by `azimuth` radians.
    pub fn orbit(azimuth: f32, elevation: f32, distance: f32) -> Self {
        let (sin, cos) = libm::sincosf(azimuth);
        let (height, reach) = libm::sincosf(elevation);
        let position = distance * Vec3::new(reach * sin, -reach * cos, height);
        let forward = (TARGET - position).normalize();
        let right = forward.cross(Vec3::Z).normalize();
        Self { position, forward, right, up: right.cross(forward) }
    }

    /// The ray through a point of the picture, in fractions of its side from the upper left corner.
    pub(super) fn ray(&self, x: f32, y: f32) -> Ray {
        let (u, v) = ((2.0 * x - 1.0) * HALF_EXTENT, (1.0 - 2.0 * y) * HALF_EXTENT);
        Ray { origin: self.position, direction: (self.forward + u * self.right + v * self.up).normalize() }
    }

    /// Where a point in front of the camera appears in the picture, in fractions of its side from the upper left corner.
    pub fn project(&self, point: Vec3) -> Vec2 {
        let offset = point - self.position;
        let depth = offset.dot(self.forward) * HALF_EXTENT;
        Vec2::new(0.5 + 0.5 * offset.dot(self.right) / depth, 0.5 - 0.5 * offset.dot(self.up) / depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ray_passes_through_what_projects_onto_its_pixel(azimuth in -0.2f32..0.2, x in -2.0f32..2.0, y in -2.0f32..2.0, z in 0.0f32..1.5) {
            let camera = Camera::orbit(azimuth, 0.66, 8.5);
            let point = Vec3::new(x, y, z);
            let pixel = camera.project(point);
            let ray = camera.ray(pixel.x, pixel.y);
            let along = (point - ray.origin).dot(ray.direction);
            prop_assert!(ray.at(along).distance(point) < 1e-4);
        }
    }
}
