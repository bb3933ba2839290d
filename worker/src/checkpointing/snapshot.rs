//! A copy of some parts of a training state in the host's memory, which becomes the parts' files without another copy.

use super::CheckpointingError;
use super::parts::Part;
use bytes::{Bytes, BytesMut};
use common::crash::{self, Point};
use common::storage::aligned;
use tch::{Device, Kind, Tensor};
use torch_shim::memory::{copy_non_blocking, empty_pinned};

/// Bytes of the pinned memory through which a GPU's tensors come to the host.
const STAGE: usize = 64 << 20;

/// The parts, and room for the bytes of their tensors. The room is used again and again: touching new memory costs as much as copying.
pub(super) struct Snapshot {
    parts: Vec<(Part, Bytes, BytesMut)>,
    stage: Option<Tensor>,
}

impl Snapshot {
    /// Room for `parts` of a state on `device`.
    ///
    /// # Errors
    /// A part that cannot be described, or no pinned memory.
    pub(super) fn new(parts: Vec<Part>, device: Device) -> Result<Self, CheckpointingError> {
        let described = parts.into_iter().map(|part| {
            let header = part.header().map_err(|reason| CheckpointingError::Writer(format!("{}: {reason}", part.name)))?;
            Ok((part, header, BytesMut::new()))
        });
        let parts = described.collect::<Result<_, CheckpointingError>>()?;
        let stage = (device != Device::Cpu).then(|| empty_pinned(&[(STAGE / 4) as i64], Kind::Float)).transpose();
        Ok(Self { parts, stage: stage.map_err(writer)? })
    }

    /// Copies the parts out of the state's flat tensors, which nobody may change meanwhile.
    ///
    /// # Errors
    /// libtorch refuses.
    pub(super) fn take(&mut self, flat: &[Tensor]) -> Result<(), CheckpointingError> {
        let _guard = tch::no_grad_guard();
        for (part, _, room) in &mut self.parts {
            if room.len() != part.bytes() {
                *room = aligned(part.bytes());
            }
            let mut rest = &mut room[..];
            for variable in part.variables(flat) {
                let values = variable.tensor.detach().to_kind(Kind::Float).contiguous().flatten(0, -1);
                let (target, behind) = rest.split_at_mut(values.numel() * 4);
                copy_out(&values, target, self.stage.as_mut())?;
                rest = behind;
            }
            crash::point(Point::Copying);
        }
        Ok(())
    }

    /// Name and file of each part, in pieces. The rooms are lent; [`take_back`](Self::take_back) returns them.
    pub(super) fn files(&mut self) -> Vec<(String, [Bytes; 2])> {
        let file = |(part, header, room): &mut (Part, Bytes, BytesMut)| {
            (part.name.clone(), [header.clone(), std::mem::take(room).freeze()])
        };
        self.parts.iter_mut().map(file).collect()
    }

    /// The rooms come back when their files are written. One that somebody still holds is lost, and will be made anew.
    pub(super) fn take_back(&mut self, files: Vec<(String, [Bytes; 2])>) {
        for ((_, _, room), (_, [_, bytes])) in self.parts.iter_mut().zip(files) {
            *room = bytes.try_into_mut().unwrap_or_default();
        }
    }
}

/// The values of a contiguous f32 tensor.
fn copy_out(values: &Tensor, target: &mut [u8], stage: Option<&mut Tensor>) -> Result<(), CheckpointingError> {
    let Some(stage) = stage.filter(|_| values.device() != Device::Cpu) else {
        return values.f_copy_data_u8(target, values.numel()).map_err(writer);
    };
    let mut first = 0;
    for piece in target.chunks_mut(STAGE) {
        let count = (piece.len() / 4) as i64;
        let mut part = stage.narrow(0, 0, count);
        copy_non_blocking(&mut part, &values.narrow(0, first, count)).map_err(writer)?;
        wait_for_copies(values.device())?;
        part.f_copy_data_u8(piece, count as usize).map_err(writer)?;
        first += count;
    }
    Ok(())
}

/// Waits for what this thread has queued on its own stream.
fn wait_for_copies(device: Device) -> Result<(), CheckpointingError> {
    let Device::Cuda(index) = device else { return Ok(()) };
    torch_shim::cuda::Stream::current(index).and_then(|stream| stream.synchronize()).map_err(writer)
}

fn writer(error: impl std::fmt::Display) -> CheckpointingError {
    CheckpointingError::Writer(error.to_string())
}
