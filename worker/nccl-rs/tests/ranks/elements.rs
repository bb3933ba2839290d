//! Elements of every type, different on every rank, and what their sum in rank order is, bit by bit.

use half::{bf16, f16};
use nccl_rs::{Buffer, DataType};

/// A type of elements.
pub(crate) trait Element: Copy + PartialEq {
    const TYPE: DataType;

    /// An arbitrary value that depends on all bits of `hash`.
    fn from_hash(hash: u64) -> Self;

    /// The sum in the order of `values`.
    fn sum(values: impl Iterator<Item = Self>) -> Self;
}

/// Rounds away from the integers, so that the order of additions shows in the sum.
fn real(hash: u64) -> f64 {
    (hash % 2_000_003) as f64 / 1_234.5 - 700.0
}

impl Element for f64 {
    const TYPE: DataType = DataType::F64;

    fn from_hash(hash: u64) -> Self {
        real(hash)
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        values.fold(-0.0, |sum, value| sum + value)
    }
}

impl Element for f32 {
    const TYPE: DataType = DataType::F32;

    fn from_hash(hash: u64) -> Self {
        real(hash) as f32
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        values.fold(-0.0, |sum, value| sum + value)
    }
}

impl Element for f16 {
    const TYPE: DataType = DataType::F16;

    fn from_hash(hash: u64) -> Self {
        Self::from_f64(real(hash))
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        Self::from_f32(Element::sum(values.map(Self::to_f32)))
    }
}

impl Element for bf16 {
    const TYPE: DataType = DataType::Bf16;

    fn from_hash(hash: u64) -> Self {
        Self::from_f64(real(hash))
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        Self::from_f32(Element::sum(values.map(Self::to_f32)))
    }
}

impl Element for i64 {
    const TYPE: DataType = DataType::I64;

    fn from_hash(hash: u64) -> Self {
        hash.cast_signed()
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        values.fold(0, Self::wrapping_add)
    }
}

impl Element for u8 {
    const TYPE: DataType = DataType::U8;

    fn from_hash(hash: u64) -> Self {
        hash as Self
    }

    fn sum(values: impl Iterator<Item = Self>) -> Self {
        values.fold(0, Self::wrapping_add)
    }
}

/// The element at `index` that `rank` brings.
pub(crate) fn element<T: Element>(rank: usize, index: usize) -> T {
    // The finalizer of MurmurHash3.
    let mut hash = (rank as u64 + 1) << 32 ^ index as u64;
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    T::from_hash(hash ^ hash >> 33)
}

/// All that `rank` brings.
pub(crate) fn elements<T: Element>(rank: usize, count: usize) -> Vec<T> {
    (0..count).map(|index| element(rank, index)).collect()
}

/// A buffer over `values`, which the tests keep until the operation is over.
pub(crate) fn buffer<T: Element>(values: &mut [T]) -> Buffer {
    let pointer = if values.is_empty() { std::ptr::null_mut() } else { values.as_mut_ptr().cast() };
    // SAFETY: the stand-in is done with the memory when the operation returns, and the tests touch it only then.
    unsafe { Buffer::new(pointer, values.len(), T::TYPE) }
}
