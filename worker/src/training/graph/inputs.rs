//! What a captured step reads: a batch that is always in the same memory, and weights that must not have moved.

use crate::data::Batch;
use crate::training::step::TrainingState;
use tch::{Kind, Tensor};
use torch_shim::ShimError;
use torch_shim::memory::copy_non_blocking;

/// The batch of a captured step.
pub(super) struct Inputs {
    batch: Batch,
    layout: Layout,
}

impl Inputs {
    /// Room for batches like `batch`, with its contents.
    pub(super) fn new(state: &TrainingState, batch: &Batch) -> Self {
        Self { batch: batch.map(Tensor::copy), layout: Layout::of(state, batch) }
    }

    /// Whether what was captured with these inputs does the step on `batch`.
    pub(super) fn fit(&self, state: &TrainingState, batch: &Batch) -> bool {
        Layout::of(state, batch) == self.layout
    }

    /// Takes the contents of `batch`, behind what the calling thread has queued.
    ///
    /// # Errors
    /// CUDA fails.
    pub(super) fn fill(&self, batch: &Batch) -> Result<(), ShimError> {
        let mut places = self.batch.tensors().zip(batch.tensors());
        places.try_for_each(|(place, fresh)| copy_non_blocking(&mut place.shallow_clone(), fresh))
    }

    /// The batch. Its step is that of the capture.
    pub(super) fn batch(&self) -> &Batch {
        &self.batch
    }
}

/// What must be as it was at the capture.
#[derive(PartialEq)]
struct Layout {
    /// Of the batch's tensors.
    shapes: Vec<(Vec<i64>, Kind)>,
    /// Of everything that a step changes.
    addresses: Vec<usize>,
}

impl Layout {
    fn of(state: &TrainingState, batch: &Batch) -> Self {
        let flat = state.flat();
        Self {
            shapes: batch.tensors().map(|tensor| (tensor.size(), tensor.kind())).collect(),
            addresses: flat.iter().chain([state.parameters.reduced()]).map(|tensor| tensor.data_ptr() as usize).collect(),
        }
    }
}
