//! Workers connected by NCCL, on GPUs; in tests, through a stand-in for its library, on CPUs.
//!
//! Operations are queued in a stream of this backend's own. The communication thread puts them in order with the stream of the
//! computation by events ([`super::ordering`]), so no thread waits for the device.

#![allow(unsafe_code)]

use super::ordering::Lane;
use super::{Aborter, Collective, CollectiveError, check_root, check_tensor};
use common::place::Place;
use nccl_rs::{Buffer, Communicator, DataType, Error, Nccl as Library, Options, Stream, UniqueId};
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor, no_grad};

/// How long workers wait for each other before the first step. Before that is over, the coordinator finds out who is missing.
const CONNECT_WITHIN: Duration = Duration::from_secs(600);
/// How long the others may take to end.
const FINALIZE_WITHIN: Duration = Duration::from_secs(30);
/// How long giving up may take.
const ABORT_WITHIN: Duration = Duration::from_secs(5);

/// How workers tell each other the id under which they meet: rank 0 brings one, and all get it.
pub type Meet = Box<dyn FnOnce(Option<String>) -> Result<String, CollectiveError> + Send>;

/// This process's end of an NCCL communicator. Dropping it leaves NCCL together with all others, or aborts after a failure.
pub struct Nccl {
    /// None once it has ended.
    communicator: Option<Communicator>,
    rank: usize,
    world: usize,
    device: Device,
    lane: Lane,
    failed: bool,
}

impl Nccl {
    /// Loads NCCL, and meets the other workers under the id that `meet` shares out.
    ///
    /// # Errors
    /// No NCCL, an old one, nobody to meet, or whatever NCCL says.
    pub fn connect(place: Place, device: Device, meet: Meet) -> Result<Self, CollectiveError> {
        let lane = Lane::new(device)?;
        let _entered = lane.enter()?;
        let library = Library::load().map_err(|error| CollectiveError::Library { cause: error.to_string() })?;
        let own = place.is_leader().then(|| library.unique_id()).transpose().map_err(transport("ncclGetUniqueId"))?;
        let shared = meet(own.map(|id| id.to_string()))?;
        let id: UniqueId = shared.parse().map_err(|error: nccl_rs::UniqueIdError| CollectiveError::Transport {
            operation: "rendezvous",
            cause: format!("rank 0's NCCL id {shared:?}: {error}"),
        })?;
        let options = Options { abort_deadline: ABORT_WITHIN, ..Options::default() };
        let Place { rank, world, .. } = place;
        let communicator =
            Communicator::connect(&library, id, rank, world, CONNECT_WITHIN, options).map_err(transport("connect"))?;
        tracing::info!("NCCL {} ({})", library.version(), library.source());
        Ok(Self { communicator: Some(communicator), rank, world, device, lane, failed: false })
    }

    /// Queues an operation on `tensor`, wherever it lies.
    fn queue(
        &mut self,
        name: &'static str,
        tensor: &Tensor,
        operation: impl FnOnce(&mut Communicator, &Buffer, Stream) -> Result<(), Error>,
    ) -> Result<(), CollectiveError> {
        check_tensor(name, tensor)?;
        let here = tensor.device() == self.device;
        let moved = if here { tensor.shallow_clone() } else { tensor.to_device(self.device) };
        let handle = self.lane.handle()?;
        let Some(communicator) = &mut self.communicator else { return Err(CollectiveError::Aborted { operation: name }) };
        // SAFETY: the tensor is contiguous, on the communicator's device, and kept by whoever asked until the stream has passed; `moved`
        // is kept below until the lane is empty. The stream lives as long as `self.lane`.
        let (buffer, stream) =
            unsafe { (Buffer::new(moved.data_ptr(), moved.numel(), data_type(moved.kind())), Stream::from_raw(handle)) };
        let result = operation(communicator, &buffer, stream).map_err(transport(name));
        self.failed |= result.is_err();
        result?;
        if !here {
            self.lane.wait_until_empty()?;
            no_grad(|| tensor.shallow_clone().copy_(&moved));
        }
        Ok(())
    }
}

/// What NCCL calls the kind of a tensor that [`check_tensor`] has accepted.
fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Double => DataType::F64,
        Kind::Int64 => DataType::I64,
        Kind::BFloat16 => DataType::Bf16,
        _ => DataType::F32,
    }
}

fn transport(operation: &'static str) -> impl Fn(Error) -> CollectiveError {
    move |error| CollectiveError::Transport { operation, cause: error.to_string() }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.queue("all_reduce", tensor, Communicator::all_reduce_sum)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        check_root(root, self.world)?;
        self.queue("broadcast", tensor, |communicator, buffer, stream| communicator.broadcast(buffer, root, stream))
    }

    /// A sum that is waited for.
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let one = Tensor::ones([1], (Kind::Float, self.device));
        self.queue("barrier", &one, Communicator::all_reduce_sum)?;
        self.lane.wait_until_empty()
    }

    fn device(&self) -> Device {
        self.device
    }

    fn lane(&self) -> Option<&Lane> {
        Some(&self.lane)
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        let Some(communicator) = &self.communicator else { return Ok(()) };
        let Err(error) = communicator.async_error() else { return Ok(()) };
        self.failed = true;
        // What is queued would never end, and whoever waits for the device would never learn why.
        if let Some(communicator) = self.communicator.take()
            && let Err(stuck) = communicator.abort(ABORT_WITHIN)
        {
            tracing::error!("{stuck}");
        }
        Err(transport("a sum")(error))
    }

    /// The others notice when this process ends; nothing has to be told.
    fn aborter(&self) -> Aborter {
        Arc::new(|_| ())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let Some(communicator) = self.communicator.take() else { return };
        let ended = if self.failed { communicator.abort(ABORT_WITHIN) } else { communicator.finalize(FINALIZE_WITHIN) };
        if let Err(error) = ended {
            tracing::warn!("NCCL was not left in order: {error}");
        }
    }
}
