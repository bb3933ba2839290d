//! From a room to pixels: what each ray meets, and how bright that is.

use super::geometry::{Hit, Ray};
use super::layout::{Object, Scene};
use super::material::Material;
use super::noise::{scramble, unit};
use glam::Vec3;

/// Rays per pixel and axis.
const SUPERSAMPLING: usize = 2;
/// Points of the lamp that each ray's shadow is judged by.
const LAMP_SAMPLES: u32 = 4;
/// Half the side of the square lamp.
const LAMP_HALF: f32 = 0.45;
/// Light that comes from everywhere.
const AMBIENT: f32 = 0.38;
/// Light that comes from the lamp.
const DIRECT: f32 = 0.75;
/// Share of the lamp's light that shadows keep.
const SHADOW_FLOOR: f32 = 0.22;
/// Share of the mirrored room in what is seen of metal from straight above.
const REFLECTANCE: f32 = 0.14;
/// Exponent of the tone curve.
const GAMMA: f32 = 1.35;
/// Standard deviation of the sensor's noise.
const SENSOR_NOISE: f32 = 0.005;

/// What a ray meets first.
struct Surfel<'a> {
    point: Vec3,
    normal: Vec3,
    /// The object; `None` for the ground.
    object: Option<&'a Object>,
}

/// The instance that the centre of every pixel shows, `[resolution, resolution]`.
pub(super) fn mask(scene: &Scene, resolution: usize) -> Vec<u8> {
    let side = resolution as f32;
    let id = |pixel: usize| {
        let (x, y) = ((pixel % resolution) as f32, (pixel / resolution) as f32);
        nearest(scene, &scene.camera.ray((x + 0.5) / side, (y + 0.5) / side)).map_or(0, |(k, _)| k as u8 + 1)
    };
    (0..resolution * resolution).map(id).collect()
}

/// The picture, RGB, `[resolution, resolution, 3]`.
pub(super) fn image(scene: &Scene, resolution: usize) -> Vec<u8> {
    let tone = ToneCurve::new();
    let mut bytes = Vec::with_capacity(resolution * resolution * 3);
    for pixel in 0..resolution * resolution {
        let seed = scramble(scene.noise ^ scramble(pixel as u32));
        let colour = pixel_colour(scene, resolution, pixel, seed, &tone);
        for (channel, value) in colour.to_array().into_iter().enumerate() {
            let noisy = value + SENSOR_NOISE * bell(scramble(seed.wrapping_add(1 + channel as u32)));
            bytes.push((noisy.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
        }
    }
    bytes
}

/// The mean over the rays of one pixel, after the tone curve so that bright edges stay smooth.
fn pixel_colour(scene: &Scene, resolution: usize, pixel: usize, seed: u32, tone: &ToneCurve) -> Vec3 {
    let grid = (resolution * SUPERSAMPLING) as f32;
    let (column, row) = (pixel % resolution * SUPERSAMPLING, pixel / resolution * SUPERSAMPLING);
    let mut sum = Vec3::ZERO;
    for sample in 0..SUPERSAMPLING * SUPERSAMPLING {
        let x = (column + sample % SUPERSAMPLING) as f32 + 0.5;
        let y = (row + sample / SUPERSAMPLING) as f32 + 0.5;
        let ray = scene.camera.ray(x / grid, y / grid);
        let lamp_sample = LampSample { seed, first: sample as u32 * LAMP_SAMPLES };
        sum += tone.apply(radiance(scene, &ray, lamp_sample));
    }
    sum / (SUPERSAMPLING * SUPERSAMPLING) as f32
}

/// The first object along a ray, and what is hit of it.
fn nearest(scene: &Scene, ray: &Ray) -> Option<(usize, Hit)> {
    let hits = scene.objects.iter().enumerate().filter_map(|(k, object)| Some((k, object.solid.intersect(ray)?)));
    hits.min_by(|(_, a), (_, b)| a.distance.total_cmp(&b.distance))
}

/// The first surface along a ray; `None` for the sky.
fn surfel<'a>(scene: &'a Scene, ray: &Ray) -> Option<Surfel<'a>> {
    if let Some((k, hit)) = nearest(scene, ray) {
        return Some(Surfel { point: ray.at(hit.distance), normal: hit.normal, object: Some(&scene.objects[k]) });
    }
    (ray.direction.z < -1e-4).then(|| Surfel { point: ray.at(-ray.origin.z / ray.direction.z), normal: Vec3::Z, object: None })
}

/// Light along a ray into the camera, with the room mirrored once in metal.
fn radiance(scene: &Scene, ray: &Ray, lamp_sample: LampSample) -> Vec3 {
    let Some(seen) = surfel(scene, ray) else { return sky(ray.direction) };
    let own = scattered(scene, ray, &seen, lamp_sample);
    let Some(tint) = seen.object.and_then(|object| object.surface.mirror_tint()) else { return own };
    let facing = -ray.direction.dot(seen.normal);
    let mirror = Ray { origin: seen.point + 2e-3 * seen.normal, direction: ray.direction + 2.0 * facing * seen.normal };
    let mirrored = surfel(scene, &mirror).map_or(sky(mirror.direction), |other| scattered(scene, &mirror, &other, lamp_sample));
    let grazing = (1.0 - facing.clamp(0.0, 1.0)).powi(4);
    own.lerp(tint * mirrored, REFLECTANCE + 0.4 * grazing * (1.0 - REFLECTANCE))
}

/// What rays that leave the room see.
fn sky(direction: Vec3) -> Vec3 {
    Vec3::splat(0.45).lerp(Vec3::splat(0.85), direction.z.clamp(0.0, 1.0))
}

/// Light that a surface scatters back along `ray`: ambient, diffuse and highlight.
fn scattered(scene: &Scene, ray: &Ray, seen: &Surfel<'_>, lamp_sample: LampSample) -> Vec3 {
    let (albedo, material) = match seen.object {
        Some(object) => (object.surface.colour(object.solid.local(seen.point)), object.surface.material()),
        None => (ground_colour(scene, seen.point), Material::Rubber),
    };
    let to_lamp = (scene.lamp - seen.point).normalize();
    let visible = lamp_visibility(scene, seen, lamp_sample);
    let diffuse = seen.normal.dot(to_lamp).max(0.0) * (SHADOW_FLOOR + (1.0 - SHADOW_FLOOR) * visible);
    // The sky above is brighter than the ground below, and neighbours take a part of either.
    let ambient = AMBIENT * (0.86 + 0.14 * seen.normal.z) * (1.0 - occlusion(scene, seen));
    let halfway = (to_lamp - ray.direction).normalize();
    let highlight =
        if seen.object.is_some() { material.highlight() * visible * seen.normal.dot(halfway).max(0.0).powi(64) } else { 0.0 };
    albedo * (ambient + DIRECT * diffuse) + Vec3::splat(highlight)
}

/// Colour of the ground: grey that darkens gently towards the far walls, or a texture that does.
fn ground_colour(scene: &Scene, point: Vec3) -> Vec3 {
    let far = (0.02 * (point.truncate().length_squared() - 4.0).max(0.0)).min(4.0);
    // A rational stand-in for exp(-far): no library function in it.
    let fade = 0.75 + 0.25 / (1.0 + far + 0.5 * far * far);
    let colour = scene.ground.as_ref().map_or(Vec3::splat(0.62), |texture| texture.colour(point));
    colour * fade
}

/// Which points of the lamp a ray's shadow is judged by.
#[derive(Clone, Copy)]
struct LampSample {
    seed: u32,
    first: u32,
}

impl LampSample {
    /// The k-th point: a low-discrepancy sequence (the generalised golden ratio), shifted by the pixel's seed.
    fn point(self, lamp: Vec3, k: u32) -> Vec3 {
        let n = (self.first + k + 1) as f32;
        let u = (unit(self.seed) + n * 0.754_877_7).fract();
        let v = (unit(scramble(self.seed)) + n * 0.569_840_3).fract();
        lamp + LAMP_HALF * Vec3::new(2.0 * u - 1.0, 2.0 * v - 1.0, 0.0)
    }
}

/// The share of the lamp that is seen from a surface.
fn lamp_visibility(scene: &Scene, seen: &Surfel<'_>, lamp_sample: LampSample) -> f32 {
    let origin = seen.point + 2e-3 * seen.normal;
    let axis = (scene.lamp - origin).normalize();
    // Only objects near the line to the lamp's middle can hide any of it: usually none.
    let near = |object: &&Object| {
        let offset = object.solid.centre - origin;
        let along = offset.dot(axis);
        let reach = object.solid.bounding_radius() + 0.2 * along.max(0.0);
        along > -object.solid.bounding_radius() && offset.length_squared() - along * along < reach * reach
    };
    let candidates: Vec<&Object> = scene.objects.iter().filter(near).collect();
    if candidates.is_empty() {
        return 1.0;
    }
    let lit = (0..LAMP_SAMPLES).filter(|&k| {
        let ray = Ray { origin, direction: (lamp_sample.point(scene.lamp, k) - origin).normalize() };
        !candidates.iter().any(|object| object.solid.intersect(&ray).is_some())
    });
    lit.count() as f32 / LAMP_SAMPLES as f32
}

/// The share of the ambient light that other objects keep away, each taken for a sphere.
fn occlusion(scene: &Scene, seen: &Surfel<'_>) -> f32 {
    let blocked = |object: &Object| {
        if seen.object.is_some_and(|own| std::ptr::eq(own, object)) {
            return 0.0;
        }
        let offset = object.solid.centre - seen.point;
        let distance_squared = offset.length_squared();
        let share = (object.solid.half * object.solid.half / distance_squared).min(1.0);
        (seen.normal.dot(offset) / distance_squared.sqrt()).max(0.0) * share
    };
    (0.7 * scene.objects.iter().map(blocked).sum::<f32>()).min(0.8)
}

/// A bell-shaped number of mean 0 and standard deviation 1: the sum of four bytes.
fn bell(bits: u32) -> f32 {
    let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
    (sum as f32 - 510.0) / 147.8
}

/// The tone curve x^(1 / gamma) on [0, 1], tabulated.
struct ToneCurve([f32; 1025]);

impl ToneCurve {
    fn new() -> Self {
        Self(std::array::from_fn(|k| libm::powf(k as f32 / 1024.0, 1.0 / GAMMA)))
    }

    fn apply(&self, colour: Vec3) -> Vec3 {
        let channel = |value: f32| {
            let x = value.clamp(0.0, 1.0) * 1024.0;
            let k = (x as usize).min(1023);
            self.0[k] + (self.0[k + 1] - self.0[k]) * (x - k as f32)
        };
        Vec3::from(colour.to_array().map(channel))
    }
}
