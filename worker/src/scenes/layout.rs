//! Furnishing a room: which objects stand where, and from where it is lit and seen.

use super::camera::Camera;
use super::geometry::{Shape, Solid};
use super::material::{Material, PALETTE, Surface};
use super::render;
use super::texture::{Pattern, Texture};
use super::{SceneOptions, Split};
use glam::Vec3;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::f32::consts::FRAC_PI_2;

/// Objects stand within this distance of the middle, in x and in y.
const ROOM: f32 = 2.35;
/// Free ground between any two objects' nominal radii.
const GAP: f32 = 0.25;
/// Tries to place an object before the room is cleared and begun anew.
const PLACEMENTS: usize = 200;
/// Side of the mask on which visibility is judged, the same for every resolution so that the rooms are too.
const JUDGED_AT: usize = 64;
/// Fewest pixels of that mask that every object must cover.
const MIN_VISIBLE: usize = 24;

/// The two sizes, in the order of their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Radius 0.55.
    Small,
    /// Radius 0.85.
    Large,
}

impl Size {
    /// Radius of a sphere of this size.
    pub fn radius(self) -> f32 {
        match self {
            Self::Small => 0.55,
            Self::Large => 0.85,
        }
    }
}

/// One object of a scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its form and place.
    pub solid: Solid,
    /// Its nominal size.
    pub size: Size,
    /// Its rotation about the vertical axis in radians, below a quarter turn.
    pub rotation: f32,
    /// Its (main) colour's place in [`PALETTE`].
    pub colour: usize,
    /// What it is made of.
    pub surface: Surface,
}

/// A furnished, lit room and its observer.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The objects; instance ids are their places plus one.
    pub objects: Vec<Object>,
    /// The observer.
    pub camera: Camera,
    /// Texture of the ground; plain grey without one.
    pub ground: Option<Texture>,
    /// Middle of the square lamp.
    pub lamp: Vec3,
    /// Seed of the sensor's noise and of the lamp's sampling.
    pub noise: u32,
}

impl Scene {
    /// Scene `index` of `split`: rooms are drawn until one shows enough of every object.
    pub fn sample(options: &SceneOptions, split: Split, index: u64) -> Self {
        let mut random = generator(options.seed, split, index);
        loop {
            let scene = furnish(options, &mut random);
            let mask = render::mask(&scene, JUDGED_AT);
            let visible = |k: usize| mask.iter().filter(|&&id| usize::from(id) == k + 1).count();
            if (0..scene.objects.len()).all(|k| visible(k) >= MIN_VISIBLE) {
                return scene;
            }
        }
    }
}

/// The generator of one scene: the key of the stream cipher is what the scene is called.
fn generator(seed: u64, split: Split, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16] = split as u8;
    ChaCha8Rng::from_seed(key)
}

/// A room without regard to what is visible in it.
fn furnish(options: &SceneOptions, random: &mut ChaCha8Rng) -> Scene {
    let count = random.random_range(options.min_objects..=options.max_objects);
    let degrees = |range: std::ops::Range<f32>, random: &mut ChaCha8Rng| random.random_range(range).to_radians();
    Scene {
        objects: place(count, options.textured, random),
        camera: Camera::orbit(degrees(-8.0..8.0, random), degrees(35.0..41.0, random), random.random_range(8.2..8.8)),
        ground: options.textured.then(|| ground(random)),
        lamp: Vec3::new(random.random_range(-4.5..-2.5), random.random_range(-4.0..-2.0), random.random_range(6.0..8.0)),
        noise: random.random(),
    }
}

/// `count` objects none of which stands on another's ground.
fn place(count: usize, textured: bool, random: &mut ChaCha8Rng) -> Vec<Object> {
    loop {
        let mut objects: Vec<Object> = Vec::with_capacity(count);
        for _ in 0..PLACEMENTS {
            if objects.len() == count {
                return objects;
            }
            let candidate = object(textured, random);
            let clear = |other: &Object| {
                let apart = candidate.solid.centre.truncate().distance(other.solid.centre.truncate());
                apart > candidate.size.radius() + other.size.radius() + GAP
            };
            if objects.iter().all(clear) {
                objects.push(candidate);
            }
        }
    }
}

/// One object anywhere in the room.
fn object(textured: bool, random: &mut ChaCha8Rng) -> Object {
    let size = if random.random() { Size::Large } else { Size::Small };
    let shape = Shape::ALL[random.random_range(0..Shape::ALL.len())];
    let (x, y) = (random.random_range(-ROOM..ROOM), random.random_range(-ROOM..ROOM));
    let rotation = random.random_range(0.0..FRAC_PI_2);
    let colour = random.random_range(0..PALETTE.len());
    let surface = if textured {
        Surface::Textured(texture(colour, random))
    } else {
        Surface::Plain(PALETTE[colour], Material::ALL[random.random_range(0..Material::ALL.len())])
    };
    Object { solid: Solid::on_ground(shape, size.radius(), x, y, rotation), size, rotation, colour, surface }
}

/// A texture whose main colour is `colour` and whose other one contrasts with it.
fn texture(colour: usize, random: &mut ChaCha8Rng) -> Texture {
    let first = PALETTE[colour];
    let other = PALETTE[(colour + random.random_range(1..PALETTE.len())) % PALETTE.len()];
    let target = if first.element_sum() > 1.2 { Vec3::splat(0.06) } else { Vec3::splat(0.95) };
    Texture {
        pattern: Pattern::ALL[random.random_range(0..Pattern::ALL.len())],
        first,
        second: other.lerp(target, 0.55),
        frequency: random.random_range(1.4..2.6),
        offset: offset(random),
    }
}

/// A texture for the ground: the patterns of objects in paler colours.
fn ground(random: &mut ChaCha8Rng) -> Texture {
    let colour = random.random_range(0..PALETTE.len());
    let mut texture = texture(colour, random);
    texture.first = texture.first.lerp(Vec3::splat(0.6), 0.55);
    texture.second = texture.second.lerp(Vec3::splat(0.5), 0.6);
    texture.frequency = random.random_range(0.7..1.5);
    texture
}

/// A place far enough from the origin that no two surfaces share their noise.
fn offset(random: &mut ChaCha8Rng) -> Vec3 {
    Vec3::new(random.random_range(10.0..90.0), random.random_range(10.0..90.0), random.random_range(10.0..90.0))
}
