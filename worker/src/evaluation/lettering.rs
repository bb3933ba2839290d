//! Small text in pictures, from a bitmap font of 8x8 pixels.

use super::pictures::Picture;
use font8x8::legacy::BASIC_LEGACY;

/// Side of a character.
pub(super) const CHARACTER: usize = 8;

/// Writes `text` with its upper left corner at (x, y), cut off after `width` pixels and at the picture's edge.
pub(super) fn write(picture: &mut Picture, text: &str, x: usize, y: usize, width: usize, colour: [u8; 3]) {
    for (place, character) in text.chars().take(width / CHARACTER).enumerate() {
        let Some(rows) = BASIC_LEGACY.get(character as usize) else { continue };
        for (dy, row) in rows.iter().enumerate() {
            for dx in (0..CHARACTER).filter(|dx| row & (1 << dx) != 0) {
                picture.set(x + place * CHARACTER + dx, y + dy, colour);
            }
        }
    }
}
