//! The tensors of two parts side by side. Parts of one layout are read in step, piece by piece; others are held in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use common::checkpoint::{Inspector, Part};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use super::comparison::{Comparison, Distance};
use crate::exit::Failure;

/// What differs between two parts of one name.
#[derive(Debug, Serialize)]
pub(super) struct PartDifference {
    pub(super) name: String,
    /// Tensors that both have; none if the digests were enough.
    pub(super) tensors: Option<usize>,
    pub(super) differing: Vec<TensorDifference>,
    pub(super) only_in_a: Vec<String>,
    pub(super) only_in_b: Vec<String>,
}

/// What differs between two tensors of one name.
#[derive(Debug, Serialize)]
pub(super) struct TensorDifference {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// How far apart; none where that cannot be said: other shapes, or other numbers than f32.
    pub(super) distance: Option<Distance>,
    /// The other shape or kind, where it is another.
    pub(super) other: Option<String>,
}

impl PartDifference {
    /// Whether there is none.
    pub(super) fn is_none(&self) -> bool {
        self.differing.is_empty() && self.only_in_a.is_empty() && self.only_in_b.is_empty()
    }

    fn nothing(name: &str, tensors: Option<usize>) -> Self {
        Self { name: name.to_owned(), tensors, differing: Vec::new(), only_in_a: Vec::new(), only_in_b: Vec::new() }
    }
}

/// Compares two parts. `read` is told how many bytes came since it was told last.
pub(super) async fn compare(
    a: (&Inspector, &Part),
    b: (&Inspector, &Part),
    mut read: impl FnMut(u64),
) -> Result<PartDifference, Failure> {
    if a.1.blake3 == b.1.blake3 {
        return Ok(PartDifference::nothing(&a.1.name, None));
    }
    if let Some(found) = in_step(a, b, &mut read).await? {
        return Ok(found);
    }
    let (whole_a, whole_b) = (a.0.checkpoints().read_part(a.1).await?, b.0.checkpoints().read_part(b.1).await?);
    read(a.1.bytes + b.1.bytes);
    by_name(&a.1.name, (&a.1.object, &whole_a), (&b.1.object, &whole_b))
}

/// A tensor of a part: name, shape, and where its bytes are in the file.
struct Slot {
    name: String,
    shape: Vec<usize>,
    start: usize,
    end: usize,
    comparison: Comparison,
}

/// None if the two have not the same tensors of f32 in the same places.
async fn in_step(
    a: (&Inspector, &Part),
    b: (&Inspector, &Part),
    read: &mut impl FnMut(u64),
) -> Result<Option<PartDifference>, Failure> {
    if a.1.bytes != b.1.bytes {
        return Ok(None);
    }
    let (mut from_a, mut from_b) = (a.0.reader(a.1).await?, b.0.reader(b.1).await?);
    let (mut slots, mut position, mut first) = (Vec::new(), 0, true);
    while let (Some(piece_a), Some(piece_b)) = (from_a.next().await?, from_b.next().await?) {
        if std::mem::take(&mut first) {
            let Some(found) = same_slots(&piece_a, &piece_b) else { return Ok(None) };
            slots = found;
        }
        read(piece_a.len() as u64 + piece_b.len() as u64);
        let end = position + piece_a.len();
        for slot in slots.iter_mut().filter(|slot| slot.start < end && slot.end > position) {
            let range = slot.start.max(position) - position..slot.end.min(end) - position;
            slot.comparison.add(&piece_a[range.clone()], &piece_b[range]);
        }
        position = end;
    }
    // A flipped bit is damage, and no difference.
    from_a.finish().await?;
    from_b.finish().await?;
    let mut found = PartDifference::nothing(&a.1.name, Some(slots.len()));
    for slot in slots {
        let Slot { name, shape, comparison, .. } = slot;
        if let Some(distance) = comparison.distance() {
            found.differing.push(TensorDifference { name, shape, distance: Some(distance), other: None });
        }
    }
    Ok(Some(found))
}

/// The tensors, if both files begin with the same header and all their numbers are f32, none of them across two pieces.
fn same_slots(a: &Bytes, b: &Bytes) -> Option<Vec<Slot>> {
    let (length, metadata) = SafeTensors::read_metadata(a).ok()?;
    let begin = 8 + length;
    if a.get(..begin)? != b.get(..begin)? || !begin.is_multiple_of(4) {
        return None;
    }
    let tensors = metadata.tensors();
    let is_f32 = tensors.values().all(|info| info.dtype == Dtype::F32 && info.data_offsets.0.is_multiple_of(4));
    let slot = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (start, end) = (begin + info.data_offsets.0, begin + info.data_offsets.1);
        Slot { name, shape: info.shape.clone(), start, end, comparison: Comparison::default() }
    };
    let mut slots: Vec<Slot> = tensors.into_iter().map(slot).collect();
    slots.sort_by_key(|slot| slot.start);
    is_f32.then_some(slots)
}

fn by_name(name: &str, a: (&str, &Bytes), b: (&str, &Bytes)) -> Result<PartDifference, Failure> {
    let open = |(object, bytes): (&str, &Bytes)| {
        SafeTensors::deserialize(bytes).map(|_| ()).map_err(|error| anyhow::anyhow!("{object}: no safetensors file: {error}"))
    };
    open(a)?;
    open(b)?;
    let (in_a, in_b) = (SafeTensors::deserialize(a.1)?, SafeTensors::deserialize(b.1)?);
    let tensors_a: BTreeMap<String, _> = in_a.tensors().into_iter().collect();
    let tensors_b: BTreeMap<String, _> = in_b.tensors().into_iter().collect();
    let mut found = PartDifference::nothing(name, Some(tensors_a.keys().filter(|name| tensors_b.contains_key(*name)).count()));
    for (name, a) in &tensors_a {
        let Some(b) = tensors_b.get(name) else {
            found.only_in_a.push(name.clone());
            continue;
        };
        let shape = a.shape().to_vec();
        if (a.shape(), a.dtype()) != (b.shape(), b.dtype()) {
            let other = Some(format!("{:?} {:?}", b.dtype(), b.shape()));
            found.differing.push(TensorDifference { name: name.clone(), shape, distance: None, other });
        } else if a.data() != b.data() {
            let mut comparison = Comparison::default();
            comparison.add(a.data(), b.data());
            let distance = comparison.distance().filter(|_| a.dtype() == Dtype::F32);
            found.differing.push(TensorDifference { name: name.clone(), shape, distance, other: None });
        }
    }
    found.only_in_b = tensors_b.into_keys().filter(|name| !tensors_a.contains_key(name)).collect();
    Ok(found)
}
