//! One step as graphs: its capture and its launch.

use super::attempt::attempt;
use super::inputs::Inputs;
use super::{Graphs, Kept, Trial, refused};
use crate::data::Batch;
use crate::training::laps::Laps;
use crate::training::reduction::Reducer;
use crate::training::step::{StepError, StepOutcome, StepRecipe, TrainingState, Wishes};

/// A step that was captured. Where the sums are part of it, it has to go before the communicator does: NCCL waits for that.
pub(super) struct Captured<T> {
    inputs: Inputs,
    gradients: Kept<T>,
    /// Whether the sums over the workers are part of the gradients.
    pub(super) sums: bool,
    /// None if it was refused.
    update: Option<Kept<T>>,
}

impl<T> Captured<T> {
    /// Captures the step on batches like `batch`; none where that is refused, which the log tells. The sums over the workers are part of
    /// it if all workers can capture them, and `trial` may begin.
    ///
    /// # Errors
    /// The workers cannot agree.
    pub(super) fn of<G: Graphs<Graph = T>>(
        recipe: &StepRecipe,
        graphs: &mut G,
        state: &mut TrainingState,
        batch: &Batch,
        reducer: &Reducer,
        trial: &mut Trial,
    ) -> Result<Option<Self>, StepError> {
        let inputs = Inputs::new(state, batch);
        let alone = graphs.capture(&mut || attempt(|| recipe.gradients(state, inputs.batch(), None, &mut Laps::default())));
        // Only what can be captured without the sums is captured with them: a capture that breaks breaks the communicator, too.
        let with_sums = !reducer.is_alone() && reducer.all_say(alone.is_ok() && trial.begin())?;
        let with_sums = if with_sums { gradients_with_sums(recipe, graphs, state, &inputs, reducer)? } else { None };
        let sums = with_sums.is_some();
        if !sums {
            trial.end();
        }
        let gradients = match with_sums.map_or(alone, Ok) {
            Ok(gradients) => gradients,
            Err(cause) => {
                refused("the gradients", &cause);
                return Ok(None);
            }
        };
        // The last capture, as it is the last launch: what lives beyond its graph is in nobody's way then.
        let update = graphs.capture(&mut || attempt(|| recipe.update(state)));
        let update = update.inspect_err(|cause| refused("the update", cause)).ok();
        tracing::info!(step = batch.step + 1, sums, "steps are launched as CUDA graphs from here on");
        Ok(Some(Self { inputs, gradients, sums, update }))
    }

    /// Whether the step on `batch` is the one that was captured.
    pub(super) fn fits(&self, state: &TrainingState, batch: &Batch) -> bool {
        self.inputs.fit(state, batch)
    }

    /// Launches what computes the gradients.
    ///
    /// # Errors
    /// CUDA refuses, and nothing was launched.
    pub(super) fn gradients<G: Graphs<Graph = T>>(
        &mut self,
        recipe: &StepRecipe,
        graphs: &mut G,
        state: &TrainingState,
        batch: &Batch,
        wishes: Wishes,
        reducer: &Reducer,
    ) -> Result<(), StepError> {
        recipe.announce(state, batch.step, wishes)?;
        self.inputs.fill(batch).map_err(StepError::Device)?;
        let (inputs, reducer) = (self.inputs.batch(), self.sums.then_some(reducer));
        graphs.replay(&mut self.gradients, &mut || recipe.gradients(state, inputs, reducer, &mut Laps::default()))
    }

    /// Launches what changes the weights.
    ///
    /// # Errors
    /// libtorch refuses the update.
    pub(super) fn update<G: Graphs<Graph = T>>(
        &mut self,
        recipe: &StepRecipe,
        graphs: &mut G,
        state: &mut TrainingState,
    ) -> Result<StepOutcome, StepError> {
        let replayed = self.update.as_mut().map(|update| graphs.replay(update, &mut || recipe.update(state)));
        if let Some(Err(cause)) = &replayed {
            refused("the update", cause);
            self.update = None;
        }
        // The next launch overwrites what lies in a graph's own memory.
        let grad_norm = match &self.update {
            Some(update) => update.result.copy(),
            None => recipe.update(state)?,
        };
        Ok(StepOutcome::new(state, grad_norm, self.gradients.result.copy()))
    }
}

/// The gradients with their sums, which the communication thread queues meanwhile; none where a worker cannot capture them.
fn gradients_with_sums<G: Graphs>(
    recipe: &StepRecipe,
    graphs: &mut G,
    state: &TrainingState,
    inputs: &Inputs,
    reducer: &Reducer,
) -> Result<Option<Kept<G::Graph>>, StepError> {
    let work = || recipe.gradients(state, inputs.batch(), Some(reducer), &mut Laps::default());
    // A capture must not end while that thread still queues sums: they would be done, on this worker alone.
    let kept = graphs.capture(&mut || attempt(work).inspect_err(|_| reducer.abandon()));
    if reducer.all_say(kept.is_ok())? {
        return Ok(kept.ok());
    }
    let cause = kept.err().map_or_else(|| "another worker cannot capture them".to_owned(), |cause| cause.to_string());
    tracing::info!("the sums over the workers follow the CUDA graph of the gradients: {cause}");
    Ok(None)
}
