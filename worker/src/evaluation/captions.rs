//! Pictures that say what they show: a caption below, the numbers of segments within.

use super::lettering::{self, CHARACTER};
use super::pictures::{INK, PAPER, Picture, PictureError};

/// Paper around letters.
const MARGIN: usize = 1;

/// The picture, large enough to be looked at, with `text` along its lower edge.
pub fn captioned(picture: &Picture, text: &str) -> Picture {
    let mut picture = picture.as_tile();
    let top = picture.height().saturating_sub(CHARACTER + 2 * MARGIN);
    letter(&mut picture, text, 0, top);
    picture
}

/// A square label map, `side` pixels wide, in distinct colours and large enough to be looked at. Every segment bears its number: that of
/// its label, from 1.
///
/// # Errors
/// When the labels are not `side * side`.
pub fn numbered(side: usize, labels: &[u8]) -> Result<Picture, PictureError> {
    let mut picture = Picture::labels(side, labels.iter().map(|&label| usize::from(label)))?.as_tile();
    let factor = picture.width() / side.max(1);
    for label in 0..=u8::MAX {
        if let Some((x, y)) = middle(side, labels, label) {
            let text = (usize::from(label) + 1).to_string();
            let start = |at: usize, length: usize, end: usize| {
                (at * factor + factor / 2).saturating_sub(length / 2).min(end.saturating_sub(length))
            };
            let (width, height) = (text.len() * CHARACTER + 2 * MARGIN, CHARACTER + 2 * MARGIN);
            let (x, y) = (start(x, width, picture.width()), start(y, height, picture.height()));
            letter(&mut picture, &text, x, y);
        }
    }
    Ok(picture)
}

/// The pixel of a segment nearest to its centre of mass: segments need not contain that.
fn middle(side: usize, labels: &[u8], label: u8) -> Option<(usize, usize)> {
    let places = || labels.iter().enumerate().filter(|(_, other)| **other == label).map(|(index, _)| (index % side, index / side));
    let count = places().count();
    let (x, y) = places().fold((0, 0), |(x, y), place| (x + place.0, y + place.1));
    // In units of 1 / count pixels, so that equal distances are equal.
    places().min_by_key(|place| (place.0 * count).abs_diff(x).pow(2) + (place.1 * count).abs_diff(y).pow(2))
}

/// Text on a strip of paper with its upper left corner at (x, y).
fn letter(picture: &mut Picture, text: &str, x: usize, y: usize) {
    let width = (text.len() * CHARACTER + 2 * MARGIN).min(picture.width());
    for dy in 0..CHARACTER + 2 * MARGIN {
        for dx in 0..width {
            picture.set(x + dx, y + dy, PAPER);
        }
    }
    lettering::write(picture, text, x + MARGIN, y + MARGIN, width, INK);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::colour;

    #[test]
    fn every_segment_bears_its_number_on_itself() {
        // A ring around a square: the centre of the ring is not its own.
        let labels: Vec<u8> =
            (0..64).map(|index| u8::from((3..5).contains(&(index % 8)) && (3..5).contains(&(index / 8)))).collect();
        let picture = numbered(8, &labels).unwrap();
        assert_eq!((picture.width(), picture.height()), (112, 112));
        let ink = |x: usize, y: usize| picture.rgb()[(y * 112 + x) * 3..][..3] == INK;
        let within = |x: usize, y: usize| (3 * 14..5 * 14).contains(&x) && (3 * 14..5 * 14).contains(&y);
        let letters =
            |inside: bool| (0..112 * 112).filter(|at| ink(at % 112, at / 112) && within(at % 112, at / 112) == inside).count();
        assert!(letters(true) > 5 && letters(false) > 5, "{} and {}", letters(true), letters(false));
        assert_eq!(picture.rgb()[..3], colour(0));
        assert!(numbered(8, &labels[1..]).is_err());
    }

    #[test]
    fn captions_leave_the_picture_above_them_alone() {
        let plain = Picture::filled(112, 112, [255, 0, 0]);
        let picture = captioned(&plain, "image 17");
        let row = 112 * 3;
        assert_eq!(picture.rgb()[..100 * row], plain.rgb()[..100 * row]);
        assert!(picture.rgb()[102 * row..].chunks(3).any(|pixel| pixel == INK));
    }
}
