//! How far two tensors are apart, taken in pieces: plain arithmetic.

use serde::Serialize;

/// What two tensors of f32 have in common, as far as they were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Comparison {
    values: u64,
    differing: u64,
    largest: f64,
    squared_difference: f64,
    squared: f64,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Distance {
    /// Number of values.
    pub(super) values: u64,
    /// Number of those whose bits differ.
    pub(super) differing: u64,
    /// Largest absolute difference; infinite where one of the two is no number.
    pub(super) max_abs: f64,
    /// Norm of the difference over that of the first tensor.
    pub(super) relative: f64,
}

impl Comparison {
    /// Takes in the next bytes of both tensors, equally many and a multiple of four.
    pub(super) fn add(&mut self, a: &[u8], b: &[u8]) {
        self.values += a.len() as u64 / 4;
        let (floats_a, floats_b) = (a.chunks_exact(4), b.chunks_exact(4));
        let same = a == b;
        for (a, b) in floats_a.zip(floats_b) {
            let value = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            let first = value(a);
            self.squared += first * first;
            if same || a == b {
                continue;
            }
            let apart = (first - value(b)).abs();
            let apart = if apart.is_nan() { f64::INFINITY } else { apart };
            self.differing += 1;
            self.largest = self.largest.max(apart);
            self.squared_difference += apart * apart;
        }
    }

    /// None if all bits are the same.
    pub(super) fn distance(&self) -> Option<Distance> {
        let Self { values, differing, largest, squared_difference, squared } = *self;
        let relative = if squared_difference == 0.0 { 0.0 } else { (squared_difference / squared).sqrt() };
        let relative = if relative.is_nan() { f64::INFINITY } else { relative };
        (differing > 0).then_some(Distance { values, differing, max_abs: largest, relative })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: &[f32], b: &[f32]) -> Option<Distance> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (a, b) = (bytes(a), bytes(b));
        let mut whole = Comparison::default();
        whole.add(&a, &b);
        for cut in (0..=a.len()).step_by(4) {
            let mut pieces = Comparison::default();
            pieces.add(&a[..cut], &b[..cut]);
            pieces.add(&a[cut..], &b[cut..]);
            assert_eq!(pieces.distance(), whole.distance(), "cut at {cut}");
        }
        whole.distance()
    }

    #[test]
    fn distances_are_those_of_the_textbook() {
        assert_eq!(distance(&[1.0, f32::NAN, -0.0], &[1.0, f32::NAN, -0.0]), None);
        let apart = |differing, max_abs, relative| Some(Distance { values: 2, differing, max_abs, relative });
        assert_eq!(distance(&[3.0, 4.0], &[3.0, 4.5]), apart(1, 0.5, 0.1));
        assert_eq!(distance(&[0.0, 1.0], &[-0.0, 1.0]), apart(1, 0.0, 0.0));
        assert_eq!(distance(&[0.0, 0.0], &[1.0, 0.0]), apart(1, 1.0, f64::INFINITY));
        assert_eq!(distance(&[0.0, 1.0], &[f32::NAN, 2.0]), apart(2, f64::INFINITY, f64::INFINITY));
        assert_eq!(distance(&[f32::NAN, 1.0], &[0.0, 1.0]), apart(1, f64::INFINITY, f64::INFINITY));
    }
}
