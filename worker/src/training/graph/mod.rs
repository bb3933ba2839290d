//! Steps that are captured once and then launched as a whole, as CUDA graphs (`train.cuda_graph`).
//!
//! A few steps are taken kernel by kernel first, while libraries choose their algorithms; they count like all others. Then a step becomes
//! two graphs: one that computes the gradients, micro batches and all, and one that changes the weights. Between them is what the host
//! has to wait for: a checkpoint that is still being copied must not hold up the gradients. What differs from step to step, the batch and
//! the [`Dials`](super::dials::Dials), lies in the same memory each time and is filled before the launch.
//!
//! With several workers the sums over them are part of the first graph, if NCCL lets itself be captured on all of them; as in a step without
//! graphs, they run beside the backward pass. Capture and launch of a sum concern all workers at once (NCCL's user guide, "Using NCCL
//! with CUDA Graphs"), so the workers agree before and after they try it. Otherwise the sums follow the first graph.
//!
//! A sum that breaks its communicator, or never ends, would end the generation, and the next one the same way: so that is tried only if no
//! generation before has ended at it ([`Trial`]).
//!
//! Whatever is refused costs one line in the log and is done kernel by kernel from then on.

mod attempt;
mod captured;
mod cuda;
mod inputs;
#[cfg(test)]
mod tests;
mod trial;

pub use attempt::is_attempt;
pub use cuda::{CudaGraphs, Track};
pub use trial::Trial;

use super::laps::Laps;
use super::reduction::Reducer;
use super::step::{StepError, StepOutcome, StepRecipe, TrainingState, Wishes};
use crate::data::Batch;
use captured::Captured;
use tch::Tensor;
use torch_shim::ShimError;

/// Steps before the capture.
pub const WARM_UP: u64 = 3;

/// After so many launches the first of them is done: the host lets no more than two steps wait.
const PROVEN: u64 = 4;

/// Work for the device, and the tensor that holds its result. It reads nothing on the host.
pub type Work<'a> = &'a mut dyn FnMut() -> Result<Tensor, StepError>;

/// Work that was captured.
pub struct Kept<T> {
    /// What does it again.
    pub graph: T,
    /// Where its result lies after each replay.
    pub result: Tensor,
}

/// What can keep work for the device and have it done again and again.
pub trait Graphs {
    /// Work that was kept.
    type Graph;

    /// Keeps what `work` queues; nothing of it is done.
    ///
    /// # Errors
    /// Those of `work`, and what cannot be kept.
    fn capture(&mut self, work: Work) -> Result<Kept<Self::Graph>, StepError>;

    /// Has it done. `work` is what was captured, for a stand-in that has no device to ask.
    ///
    /// # Errors
    /// The device refuses; nothing was done.
    fn replay(&mut self, kept: &mut Kept<Self::Graph>, work: Work) -> Result<(), StepError>;
}

/// Takes the steps of a recipe: as graphs where it can, else kernel by kernel.
pub struct StepGraph<G: Graphs> {
    recipe: StepRecipe,
    plan: Plan<G>,
    trial: Trial,
    launches: u64,
}

enum Plan<G: Graphs> {
    /// For good.
    KernelByKernel,
    /// As long as fewer than [`WARM_UP`] steps were taken.
    WarmUp { graphs: G, taken: u64 },
    /// As graphs, where the batch fits.
    Launch { graphs: G, step: Captured<G::Graph> },
}

impl<G: Graphs> StepGraph<G> {
    /// Steps of `recipe`, by `graphs` if there are any; with sums over the workers in them, if `trial` has nothing against that.
    pub fn new(recipe: StepRecipe, graphs: Option<G>, trial: Trial) -> Self {
        let plan = graphs.map_or(Plan::KernelByKernel, |graphs| Plan::WarmUp { graphs, taken: 0 });
        Self { recipe, plan, trial, launches: 0 }
    }

    /// The recipe.
    pub fn recipe(&self) -> &StepRecipe {
        &self.recipe
    }

    /// Whether a step was captured, and steps like it are launched as graphs.
    pub fn launches_graphs(&self) -> bool {
        matches!(self.plan, Plan::Launch { .. })
    }

    /// The step on `batch`, as [`StepRecipe::run`] takes it. With several workers, all take the same steps and run their laps at the same
    /// ones.
    ///
    /// # Errors
    /// Those of [`StepRecipe::run`], and a graph that this worker alone cannot launch.
    pub fn run(
        &mut self,
        state: &mut TrainingState,
        batch: &Batch,
        wishes: Wishes,
        reducer: &Reducer,
        laps: &mut Laps,
        before_update: impl FnOnce(),
    ) -> Result<StepOutcome, StepError> {
        // Whoever measures the parts of a step wants to see them.
        if laps.are_running() {
            return self.recipe.run(state, batch, wishes, reducer, laps, before_update);
        }
        self.proceed(state, batch, reducer)?;
        if let Plan::Launch { graphs, step } = &mut self.plan {
            let launched = step.fits(state, batch).then(|| step.gradients(&self.recipe, graphs, state, batch, wishes, reducer));
            match launched {
                Some(Ok(())) => {
                    if !step.sums {
                        reducer.sum()?;
                    }
                    self.launches += 1;
                    if self.launches == PROVEN {
                        self.trial.end();
                    }
                    before_update();
                    return step.update(&self.recipe, graphs, state);
                }
                Some(Err(cause)) if step.sums => return Err(apart(batch, &cause.to_string())),
                None if step.sums => return Err(apart(batch, "batch or weights are not as they were at its capture")),
                Some(Err(cause)) => {
                    refused("the gradients", &cause);
                    self.plan = Plan::KernelByKernel;
                }
                None => {}
            }
        }
        self.recipe.run(state, batch, wishes, reducer, laps, before_update)
    }

    /// Counts a step of the warm-up, or captures one after it.
    fn proceed(&mut self, state: &mut TrainingState, batch: &Batch, reducer: &Reducer) -> Result<(), StepError> {
        self.plan = match std::mem::replace(&mut self.plan, Plan::KernelByKernel) {
            Plan::WarmUp { graphs, taken } if taken < WARM_UP => Plan::WarmUp { graphs, taken: taken + 1 },
            Plan::WarmUp { mut graphs, .. } => {
                match Captured::of(&self.recipe, &mut graphs, state, batch, reducer, &mut self.trial)? {
                    Some(step) => Plan::Launch { graphs, step },
                    None => Plan::KernelByKernel,
                }
            }
            plan => plan,
        };
        Ok(())
    }
}

impl StepGraph<CudaGraphs> {
    /// Before the first step: sends this thread's work to a stream that can be captured, if anything shall be, until the answer is dropped.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn enter(&self) -> Result<Option<Track>, ShimError> {
        match &self.plan {
            Plan::WarmUp { graphs, .. } | Plan::Launch { graphs, .. } => graphs.enter().map(Some),
            Plan::KernelByKernel => Ok(None),
        }
    }
}

/// This worker cannot do what the others do.
fn apart(batch: &Batch, cause: &str) -> StepError {
    StepError::Graph { step: batch.step + 1, cause: cause.to_owned() }
}

/// Says that a part of the step goes on without a graph.
fn refused(part: &str, cause: &StepError) {
    tracing::warn!("no CUDA graph of {part}, which will be launched kernel by kernel: {cause}");
}
