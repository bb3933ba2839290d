//! Rays and the three solids of CLEVR that they meet.

use glam::{Vec2, Vec3};

/// Distances below this count as the surface that a ray starts from.
const SURFACE: f32 = 1e-3;

/// A half-line with a direction of length 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ray {
    pub(super) origin: Vec3,
    pub(super) direction: Vec3,
}

impl Ray {
    /// The point at `distance` from the origin.
    pub(super) fn at(&self, distance: f32) -> Vec3 {
        self.origin + distance * self.direction
    }
}

/// Where a ray first enters a solid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) distance: f32,
    /// The outward unit normal.
    pub(super) normal: Vec3,
}

/// The kinds of solids, in the order of their codes in the attribute table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An upright cube.
    Cube,
    /// A sphere.
    Sphere,
    /// An upright cylinder as high as wide.
    Cylinder,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 3] = [Self::Cube, Self::Sphere, Self::Cylinder];

    /// Half the height (and half the width) of this shape, relative to the radius of a sphere that looks as large.
    fn half_extent(self) -> f32 {
        match self {
            Self::Cube => 0.8,
            Self::Sphere => 1.0,
            Self::Cylinder => 0.85,
        }
    }
}

/// A solid that stands on the ground.
#[derive(Debug, Clone, PartialEq)]
pub struct Solid {
    /// What it is.
    pub shape: Shape,
    /// Its middle.
    pub centre: Vec3,
    /// Half its height: half the side of a cube, the radius of a sphere or cylinder.
    pub half: f32,
    /// Cosine and sine of its rotation about the vertical axis.
    pub heading: Vec2,
}

impl Solid {
    /// A solid of nominal radius `radius` on the ground at (x, y), rotated by `rotation` radians.
    pub fn on_ground(shape: Shape, radius: f32, x: f32, y: f32, rotation: f32) -> Self {
        let half = radius * shape.half_extent();
        let (sin, cos) = libm::sincosf(rotation);
        Self { shape, centre: Vec3::new(x, y, half), half, heading: Vec2::new(cos, sin) }
    }

    /// Radius of the circle on the ground that holds the solid's shadow under light from straight above.
    pub fn footprint_radius(&self) -> f32 {
        match self.shape {
            Shape::Cube => self.half * std::f32::consts::SQRT_2,
            Shape::Sphere | Shape::Cylinder => self.half,
        }
    }

    /// Radius of a sphere about the centre that holds the solid.
    pub(super) fn bounding_radius(&self) -> f32 {
        match self.shape {
            Shape::Cube => self.half * 1.733,
            Shape::Sphere => self.half,
            Shape::Cylinder => self.half * 1.415,
        }
    }

    /// A direction of the room as the solid sees it.
    fn turn_in(&self, v: Vec3) -> Vec3 {
        let (cos, sin) = (self.heading.x, self.heading.y);
        Vec3::new(cos * v.x + sin * v.y, cos * v.y - sin * v.x, v.z)
    }

    /// A direction of the solid as the room sees it.
    fn turn_out(&self, v: Vec3) -> Vec3 {
        let (cos, sin) = (self.heading.x, self.heading.y);
        Vec3::new(cos * v.x - sin * v.y, sin * v.x + cos * v.y, v.z)
    }

    /// A point of the room in the solid's own coordinates, in which it reaches from -1 to 1.
    pub(super) fn local(&self, point: Vec3) -> Vec3 {
        self.turn_in(point - self.centre) / self.half
    }

    /// Where `ray` first enters the solid from outside.
    pub(super) fn intersect(&self, ray: &Ray) -> Option<Hit> {
        let offset = ray.origin - self.centre;
        let along = -offset.dot(ray.direction);
        let bound = self.bounding_radius();
        let nearest_squared = offset.length_squared() - along * along;
        if nearest_squared > bound * bound || along < -bound {
            return None;
        }
        match self.shape {
            Shape::Sphere => self.intersect_sphere(offset, ray.direction, along, nearest_squared),
            Shape::Cube => self.intersect_cube(self.turn_in(offset), self.turn_in(ray.direction)),
            Shape::Cylinder => self.intersect_cylinder(offset, ray.direction),
        }
    }

    fn intersect_sphere(&self, offset: Vec3, direction: Vec3, along: f32, nearest_squared: f32) -> Option<Hit> {
        let distance = along - (self.half * self.half - nearest_squared).max(0.0).sqrt();
        (distance > SURFACE).then(|| Hit { distance, normal: (offset + distance * direction) / self.half })
    }

    /// The slab method, in the cube's own axes.
    fn intersect_cube(&self, offset: Vec3, direction: Vec3) -> Option<Hit> {
        let inverse = direction.recip();
        let first = (-self.half - offset) * inverse;
        let second = (self.half - offset) * inverse;
        let enter = first.min(second);
        let (distance, leave) = (enter.max_element(), first.max(second).min_element());
        if distance >= leave || distance <= SURFACE {
            return None;
        }
        let face = match enter.max_position() {
            0 => Vec3::X,
            1 => Vec3::Y,
            _ => Vec3::Z,
        };
        Some(Hit { distance, normal: self.turn_out(-face * direction.signum()) })
    }

    /// The mantle, else the cap that faces the ray.
    fn intersect_cylinder(&self, offset: Vec3, direction: Vec3) -> Option<Hit> {
        let (p, d) = (offset.truncate(), direction.truncate());
        let a = d.length_squared();
        let b = p.dot(d);
        let discriminant = b * b - a * (p.length_squared() - self.half * self.half);
        if discriminant > 0.0 && a > 0.0 {
            let distance = (-b - discriminant.sqrt()) / a;
            let height = offset.z + distance * direction.z;
            if distance > SURFACE && height.abs() < self.half {
                return Some(Hit { distance, normal: ((p + distance * d) / self.half).extend(0.0) });
            }
        }
        let side = -direction.z.signum();
        let distance = (side * self.half - offset.z) / direction.z;
        let inside = (p + distance * d).length_squared() < self.half * self.half;
        (inside && distance > SURFACE).then_some(Hit { distance, normal: Vec3::new(0.0, 0.0, side) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether a point lies in the solid, up to `slack`.
    fn contains(solid: &Solid, point: Vec3, slack: f32) -> bool {
        let p = solid.local(point).abs();
        let reach = 1.0 + slack;
        match solid.shape {
            Shape::Cube => p.max_element() <= reach,
            Shape::Sphere => p.length() <= reach,
            Shape::Cylinder => p.truncate().length() <= reach && p.z <= reach,
        }
    }

    /// The first point inside of the solid on a fine walk along the ray: slow and obviously right.
    fn walk(solid: &Solid, ray: &Ray) -> Option<f32> {
        (0..8000).map(|step| step as f32 * 1e-3).find(|&distance| contains(solid, ray.at(distance), 0.0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn rays_enter_solids_where_a_fine_walk_enters_them(
            shape in prop::sample::select(Shape::ALL.to_vec()), rotation in 0.0f32..1.5, from in prop::array::uniform3(-3.0f32..3.0),
            to in prop::array::uniform3(-0.9f32..0.9),
        ) {
            let solid = Solid::on_ground(shape, 0.8, 0.4, -0.3, rotation);
            let origin = solid.centre + Vec3::from(from).normalize_or(Vec3::X) * 3.0;
            let ray = Ray { origin, direction: (solid.centre + Vec3::from(to) - origin).normalize() };
            match (solid.intersect(&ray), walk(&solid, &ray)) {
                (Some(hit), Some(distance)) => {
                    prop_assert!((hit.distance - distance).abs() < 5e-3, "{} against {distance}", hit.distance);
                    prop_assert!((hit.normal.length() - 1.0).abs() < 1e-3);
                    prop_assert!(hit.normal.dot(ray.direction) < 1e-3, "the normal points away from the viewer");
                    prop_assert!(!contains(&solid, ray.at(hit.distance) + hit.normal * 0.01, 0.0), "the normal points inwards");
                }
                // A walk may step over a grazed edge.
                (Some(hit), None) => prop_assert!(contains(&solid, ray.at(hit.distance), 2e-3)),
                (None, Some(distance)) => prop_assert!(!contains(&solid, ray.at(distance), -2e-3), "missed at {distance}"),
                (None, None) => {}
            }
        }
    }
}
