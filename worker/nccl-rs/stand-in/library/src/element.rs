//! Types of elements, and sums of them in rank order.

use crate::failure::Failure;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ffi::c_int;
use std::ops::Range;
use std::slice;

/// The types that are summed, by `ncclDataType_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    U8 = 1,
    I64 = 4,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
}

/// How many f16 or bf16 are summed at a time.
const BLOCK: usize = 1024;

impl Element {
    pub(crate) fn from_code(code: c_int) -> Result<Self, Failure> {
        [Self::U8, Self::I64, Self::F16, Self::F32, Self::F64, Self::Bf16]
            .into_iter()
            .find(|element| *element as c_int == code)
            .ok_or_else(|| Failure::argument(format!("the stand-in does not know data type {code}")))
    }

    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Writes the sums of the elements in `part` of all `inputs`, in their order, to the same places of `result`.
    ///
    /// # Safety
    /// All pointers are aligned for and point at `part.end` elements that nobody writes to meanwhile; nobody else uses `part` of
    /// `result`, which is none of the inputs.
    pub(crate) unsafe fn sum(self, inputs: &[*const u8], result: *mut u8, part: Range<usize>) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match self {
                Self::U8 => sum(inputs, result, part, u8::wrapping_add),
                Self::I64 => sum(inputs, result, part, i64::wrapping_add),
                Self::F32 => sum(inputs, result, part, |left: f32, right| left + right),
                Self::F64 => sum(inputs, result, part, |left: f64, right| left + right),
                Self::F16 => sum_halves::<f16>(inputs, result, part),
                Self::Bf16 => sum_halves::<bf16>(inputs, result, part),
            }
        }
    }
}

/// [`Element::sum`] of elements that are added as what they are.
unsafe fn sum<T: Copy>(inputs: &[*const u8], result: *mut u8, part: Range<usize>, add: impl Fn(T, T) -> T) {
    let Some((first, others)) = inputs.split_first() else { return };
    // SAFETY: the promise of `Element::sum`.
    let (sums, first) = unsafe {
        let sums = slice::from_raw_parts_mut(result.cast::<T>().add(part.start), part.len());
        (sums, slice::from_raw_parts(first.cast::<T>().add(part.start), part.len()))
    };
    sums.copy_from_slice(first);
    for other in others {
        // SAFETY: as above.
        let other = unsafe { slice::from_raw_parts(other.cast::<T>().add(part.start), part.len()) };
        for (sum, value) in sums.iter_mut().zip(other) {
            *sum = add(*sum, *value);
        }
    }
}

/// [`Element::sum`] in f32, rounded once.
unsafe fn sum_halves<T>(inputs: &[*const u8], result: *mut u8, part: Range<usize>)
where
    [T]: HalfFloatSliceExt,
{
    let (mut sums, mut values) = ([0.0; BLOCK], [0.0; BLOCK]);
    for start in part.clone().step_by(BLOCK) {
        let length = BLOCK.min(part.end - start);
        let (sums, values) = (&mut sums[..length], &mut values[..length]);
        sums.fill(0.0);
        for input in inputs {
            // SAFETY: the promise of `Element::sum`.
            unsafe { slice::from_raw_parts(input.cast::<T>().add(start), length) }.convert_to_f32_slice(values);
            sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
        }
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(result.cast::<T>().add(start), length) }.convert_from_f32_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed<T: Clone>(element: Element, inputs: &[Vec<T>], part: Range<usize>) -> Vec<T> {
        let mut result = inputs[0].clone();
        let pointers: Vec<*const u8> = inputs.iter().map(|input| input.as_ptr().cast()).collect();
        // SAFETY: vectors of one length.
        unsafe { element.sum(&pointers, result.as_mut_ptr().cast(), part) };
        result
    }

    #[test]
    fn sums_are_formed_in_order_and_only_where_asked() {
        // In this order the small number is lost, in any other it is not.
        let values = [vec![1e8_f32; 4], vec![1.0; 4], vec![-1e8; 4]];
        assert_eq!(summed(Element::F32, &values, 1..3), [1e8, 0.0, 0.0, 1e8]);
        assert_eq!(summed(Element::F64, &[vec![1.5], vec![0.25]], 0..1), [1.75]);
        assert_eq!(summed(Element::U8, &[vec![200_u8], vec![100]], 0..1), [44]);
        assert_eq!(summed(Element::I64, &[vec![i64::MAX], vec![1]], 0..1), [i64::MIN]);
    }

    #[test]
    fn halves_are_rounded_once() {
        // Rounded after each addition, 256 + 1 + 1 stays 256 in bf16.
        let inputs = [256.0, 1.0, 1.0].map(|value| vec![bf16::from_f32(value); BLOCK + 3]);
        assert!(summed(Element::Bf16, &inputs, 0..BLOCK + 3).iter().all(|sum| sum.to_f32() == 258.0));
        let inputs = [2048.0, 1.0, 1.0].map(|value| vec![f16::from_f32(value); BLOCK + 3]);
        assert!(summed(Element::F16, &inputs, 0..BLOCK + 3).iter().all(|sum| sum.to_f32() == 2050.0));
    }
}
