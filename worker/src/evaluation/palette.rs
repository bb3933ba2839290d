//! Colours for labels that the eye tells apart.

/// Dark grey for 0, then eleven colours of high contrast; further ones are made by walking around the circle of hues.
const FIRST: [[u8; 3]; 12] = [
    [52, 54, 62],
    [255, 99, 72],
    [64, 156, 255],
    [255, 205, 64],
    [72, 201, 130],
    [190, 110, 255],
    [255, 150, 205],
    [90, 225, 225],
    [176, 126, 80],
    [164, 212, 60],
    [240, 240, 235],
    [110, 116, 215],
];

/// The colour of a label; neighbouring labels differ strongly.
pub fn colour(label: usize) -> [u8; 3] {
    FIRST.get(label).copied().unwrap_or_else(|| hue((label as f32 * 0.618_034).fract(), 0.55 + 0.4 * (label % 2) as f32))
}

/// A colour of the given hue (0..1) and brightness.
fn hue(hue: f32, brightness: f32) -> [u8; 3] {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|shift| {
        let distance = ((hue + shift).fract() * 6.0 - 3.0).abs() - 1.0;
        ((0.25 + 0.75 * distance.clamp(0.0, 1.0)) * brightness * 255.0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_four_slots_get_colours_far_apart() {
        for a in 0..25 {
            for b in 0..a {
                let distance: i32 = colour(a).iter().zip(colour(b)).map(|(x, y)| (i32::from(*x) - i32::from(y)).abs()).sum();
                assert!(distance > 30, "labels {a} and {b}: {:?} and {:?}", colour(a), colour(b));
            }
        }
    }
}
