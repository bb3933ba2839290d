//! Captures by CUDA, and the stream on which they can be made.

use super::{Graphs, Kept, Work};
use crate::training::step::StepError;
use common::config::CudaGraph;
use tch::Device;
use torch_shim::ShimError;
use torch_shim::cuda::{Capture, Event, Graph, Pool, Priority, Stream, StreamGuard, empty_cache};

/// CUDA graphs of one device, which share the memory of their intermediate results: they are launched one after the other.
pub struct CudaGraphs {
    device: usize,
    pool: Pool,
}

impl CudaGraphs {
    /// Those of `device`, if they are wanted and can be had; if only the first, the log says why.
    pub fn new(wanted: CudaGraph, device: Device) -> Option<Self> {
        if wanted == CudaGraph::Off {
            return None;
        }
        let Device::Cuda(index) = device else {
            tracing::info!("train.cuda_graph = \"auto\" has nothing to capture: this worker computes on the CPU");
            return None;
        };
        let pool = Pool::new().inspect_err(|error| tracing::warn!("steps are launched kernel by kernel: {error}"));
        Some(Self { device: index, pool: pool.ok()? })
    }

    /// Sends this thread's work to a stream that can be captured, until the answer is dropped.
    ///
    /// # Errors
    /// CUDA fails.
    pub(super) fn enter(&self) -> Result<Track, ShimError> {
        Track::enter(self.device)
    }
}

impl Graphs for CudaGraphs {
    type Graph = Graph;

    fn capture(&mut self, work: Work) -> Result<Kept<Graph>, StepError> {
        // The intermediate results of the steps before lie in libtorch's cache: without that there need not be room for both.
        Stream::current(self.device).and_then(Stream::synchronize).and_then(|()| empty_cache()).map_err(StepError::Device)?;
        let capture = Capture::begin(self.pool).map_err(StepError::Device)?;
        let result = work()?;
        Ok(Kept { graph: capture.end().map_err(StepError::Device)?, result })
    }

    fn replay(&mut self, kept: &mut Kept<Graph>, _work: Work) -> Result<(), StepError> {
        kept.graph.replay().map_err(StepError::Device)
    }
}

/// While it lives, this thread's work goes to a stream of its own: libtorch's default stream cannot be captured.
pub struct Track {
    stream: Stream,
    _guard: StreamGuard,
}

impl Track {
    fn enter(device: usize) -> Result<Self, ShimError> {
        let mut before = Event::new()?;
        before.record(Stream::current(device)?)?;
        let stream = Stream::from_pool(device, Priority::Normal)?;
        stream.wait(&before)?;
        Ok(Self { stream, _guard: stream.make_current()? })
    }
}

impl Drop for Track {
    /// What comes after is on another stream, and may free what this one still works with.
    fn drop(&mut self) {
        if let Err(error) = self.stream.synchronize() {
            tracing::warn!("{error}");
        }
    }
}
