//! The model at work: slots of images, their segmentation, and pictures decoded from slots.

mod decoder;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use decoder::Decoder;

use crate::data::to_unit_range;
use crate::model::{LatentSlotDiffusion, SlotOutput, without_gradients};
use crate::training::random::{Draws, Purpose};
use std::ops::Range;
use tch::{Device, Kind, TchError, Tensor};

/// The step under which initial slots and sampling noise are drawn: no training step, so that no image meets the noise it was trained with.
/// Like all draws they depend on the row alone, whatever the batch or the number of workers.
pub(crate) const INFERENCE: u64 = u64::MAX;

/// Slots of images u8 [B, H, W, 3], which are the images number `rows` of their split.
pub fn find_slots(model: &LatentSlotDiffusion, draws: Draws, images: &Tensor, rows: Range<usize>, device: Device) -> SlotOutput {
    let noise = draws.normal(INFERENCE, Purpose::InitialSlots, rows, &model.slot_attention.slots_shape());
    without_gradients(|| {
        let features = model.backbone.forward(&to_unit_range(&images.to_device(device)));
        model.slot_attention.forward(&features, &model.slot_attention.initial_slots(&noise.to_device(device)))
    })
}

/// Attention [B, K, h, w] -> attention [B, K, side, side], bilinearly. The slots of a pixel come to lie side by side, which makes both this
/// and [`segment`] several times as fast on a CPU.
pub fn enlarge(attention: &Tensor, side: usize) -> Tensor {
    let channels_last = attention.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    channels_last.upsample_bilinear2d([side as i64, side as i64], false, None, None)
}

/// Attention [B, K, side, side] -> the slot of every pixel, one label map per image.
pub fn segment(attention: &Tensor) -> Result<Vec<Vec<u8>>, TchError> {
    attention.argmax(1, false).to_kind(Kind::Uint8).unbind(0).iter().map(to_vec).collect()
}

/// The values of a tensor of any shape, row by row.
pub fn to_vec<T>(tensor: &Tensor) -> Result<Vec<T>, TchError>
where
    Vec<T>: TryFrom<Tensor, Error = TchError>,
{
    Vec::try_from(tensor.flatten(0, -1).contiguous())
}
