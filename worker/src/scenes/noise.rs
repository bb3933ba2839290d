//! Repeatable noise: integers that look random, and smooth functions of space made of them.

use glam::Vec3;

/// Scrambles 32 bits (the finaliser of PCG: a multiplication, a shift that depends on the data, a multiplication).
pub(super) fn scramble(seed: u32) -> u32 {
    let state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// A number in [0, 1) from the upper 24 bits, exactly.
pub(super) fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 / (1 << 24) as f32
}

/// The hash of a lattice point.
pub(super) fn lattice(x: i32, y: i32, z: i32) -> u32 {
    scramble((x as u32).wrapping_add(scramble((y as u32).wrapping_add(scramble(z as u32)))))
}

/// Value noise in [0, 1]: random values on the integer lattice, smoothly interpolated.
pub(super) fn value(point: Vec3) -> f32 {
    let base = point.floor();
    let t = point - base;
    let t = t * t * (3.0 - 2.0 * t);
    let (x, y, z) = (base.x as i32, base.y as i32, base.z as i32);
    let corner = |dx: i32, dy: i32, dz: i32| unit(lattice(x.wrapping_add(dx), y.wrapping_add(dy), z.wrapping_add(dz)));
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    let edge = |dy, dz| mix(corner(0, dy, dz), corner(1, dy, dz), t.x);
    mix(mix(edge(0, 0), edge(1, 0), t.y), mix(edge(0, 1), edge(1, 1), t.y), t.z)
}

/// Three octaves of [`value`], in [0, 1].
pub(super) fn fractal(point: Vec3) -> f32 {
    let shift = Vec3::new(17.3, 5.1, 11.7);
    (4.0 * value(point) + 2.0 * value(2.0 * point + shift) + value(4.0 * point + 2.0 * shift)) / 7.0
}

/// Distances from a point to the nearest and the second nearest of randomly placed seeds, one per lattice cell.
pub(super) fn cells(point: Vec3) -> (f32, f32) {
    let base = point.floor();
    let (mut first, mut second) = (f32::MAX, f32::MAX);
    for k in 0..27 {
        let cell = base + Vec3::new((k % 3) as f32 - 1.0, (k / 3 % 3) as f32 - 1.0, (k / 9) as f32 - 1.0);
        let bits = lattice(cell.x as i32, cell.y as i32, cell.z as i32);
        let jitter = Vec3::new(unit(bits), unit(scramble(bits)), unit(scramble(bits ^ 0x9e37_79b9)));
        let distance = point.distance(cell + jitter);
        if distance < first {
            (first, second) = (distance, first);
        } else {
            second = second.min(distance);
        }
    }
    (first, second)
}
