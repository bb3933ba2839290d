//! One optimizer step of Latent Slot Diffusion: a batch in, changed weights out.

use super::dials::{Dials, Settings};
use super::ema::MovingAverage;
use super::laps::{Lap, Laps};
use super::objective::Objective;
use super::optimizer::{AdamW, Clipped, clip};
use super::parameters::{FlatParameters, Group, ParametersError};
use super::reduction::{Reducer, ReductionError};
use super::schedule::LearningRate;
use crate::data::Batch;
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use common::config::{Config, NotFinitePolicy};
use tch::{Device, Kind, Tensor, no_grad};
use thiserror::Error;
use torch_shim::ShimError;

/// What training changes from step to step, and so what a checkpoint holds.
pub struct TrainingState {
    /// The networks.
    pub model: LatentSlotDiffusion,
    /// Their parameters and gradients, in the order of `model.modules`.
    pub parameters: FlatParameters,
    /// The optimizer's moments.
    pub adamw: AdamW,
    /// The moving average, unless `train.ema_decay` is 0.
    pub average: Option<MovingAverage>,
}

impl TrainingState {
    /// The state before step 0: the parameters of `model` moved into flat memory, zero moments.
    ///
    /// # Errors
    /// A model without trainable variables.
    pub fn new(model: LatentSlotDiffusion, config: &Config) -> Result<Self, ParametersError> {
        let groups = model.modules.iter().map(|module| {
            let trainable = module.variables.iter().filter(|variable| variable.trainable);
            let variables = trainable.map(|variable| (variable.name.clone(), variable.tensor.shallow_clone())).collect();
            Group { name: module.name.to_owned(), variables }
        });
        let parameters = FlatParameters::new(groups.collect())?;
        let adamw = AdamW::new(&parameters, config.train.optimizer.clone());
        let average = MovingAverage::new(&parameters, config.train.ema_decay);
        Ok(Self { model, parameters, adamw, average })
    }

    /// The networks with the moving average for parameters, which follow it wherever it goes; none where there is no moving average.
    pub fn averaged(&self, config: &Config, device: Device) -> Option<LatentSlotDiffusion> {
        let average = self.average.as_ref()?;
        let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Unset, device);
        let trainable = model.modules.iter().flat_map(|module| &module.variables).filter(|variable| variable.trainable);
        self.parameters.lend(average.values(), trainable.map(|variable| &variable.tensor));
        Some(model)
    }

    /// The flat tensors in a fixed order: parameters, first moments, second moments, moving average.
    pub fn flat(&self) -> Vec<Tensor> {
        let moments = [self.parameters.values(), self.adamw.exp_avg(), self.adamw.exp_avg_sq()];
        moments.into_iter().chain(self.average.as_ref().map(MovingAverage::values)).map(Tensor::shallow_clone).collect()
    }
}

/// Why a step could not be done.
#[derive(Debug, Error)]
pub enum StepError {
    /// The gradients could not be summed over the workers.
    #[error(transparent)]
    Reduction(#[from] ReductionError),
    /// libtorch refused the update.
    #[error("the optimizer failed: {0}")]
    Optimizer(ShimError),
    /// CUDA does not take what a step needs, a batch, settings or a graph.
    #[error("CUDA refuses: {0}")]
    Device(ShimError),
    /// An operation of libtorch failed while it was tried out.
    #[error("libtorch refuses: {0}")]
    Libtorch(String),
    /// A captured step cannot be taken, and the other workers take it.
    #[error(
        "step {step}: this worker's CUDA graph cannot be launched: {cause}; the sums over the workers are part of it, so the others cannot \
         do without (train.cuda_graph = \"off\" trains without graphs)"
    )]
    Graph {
        /// The step, counted from 1.
        step: u64,
        /// Why.
        cause: String,
    },
}

/// What a step leaves to look at: tensors of one element that are not read until somebody asks, so that nothing waits for the device.
pub struct StepOutcome {
    /// Mean squared error over the global batch, weighted by `diffusion.snr_gamma`.
    pub loss: Tensor,
    /// Global norm of the gradients before clipping.
    pub grad_norm: Tensor,
    /// How many workers have each of the [`Wishes`], `[3]`.
    pub wishes: Tensor,
    /// Attention of the slots on this worker's images [B, K, h, w], without graph.
    pub attention: Tensor,
}

impl StepOutcome {
    /// After an update: the sums that have travelled with the gradients, beside the two that have not.
    pub(super) fn new(state: &TrainingState, grad_norm: Tensor, attention: Tensor) -> Self {
        let passengers = state.parameters.passengers();
        Self { loss: passengers.get(0).copy(), grad_norm, wishes: passengers.narrow(0, 1, 3).copy(), attention }
    }
}

/// What a worker wants all to know after a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// It was asked to stop.
    pub stop: bool,
    /// It was asked for a checkpoint, or it is time for one.
    pub save: bool,
    /// It is still saving the checkpoint before.
    pub busy: bool,
}

/// The recipe of a step: everything that stays the same over a run.
pub struct StepRecipe {
    objective: Objective,
    learning_rates: [LearningRate; 3],
    dials: Dials,
    clip_norm: f64,
    not_finite: NotFinitePolicy,
    global_batch: usize,
    /// Most rows per forward and backward pass.
    micro_batch: usize,
}

/// Rows per pass: as configured, else as many as a worker has when all hosts are there. Those that are left when a host is lost take
/// over its rows in further passes, within the memory that they are known to need.
fn micro_batch(config: &Config) -> usize {
    let workers = config.cluster.nodes * config.cluster.workers_per_node;
    config.train.micro_batch.unwrap_or(config.train.global_batch.div_ceil(workers.max(1)))
}

impl StepRecipe {
    /// The recipe that a configuration describes, for latents with the given scaling factor.
    pub fn new(config: &Config, scaling_factor: f64, device: Device) -> Self {
        Self {
            objective: Objective::new(config, scaling_factor, device),
            learning_rates: LearningRate::of_groups(&config.train),
            dials: Dials::new(device),
            clip_norm: config.train.clip_norm,
            not_finite: config.train.not_finite,
            global_batch: config.train.global_batch,
            micro_batch: micro_batch(config),
        }
    }

    /// The learning rates of backbone, Slot Attention and UNet at `step`.
    pub fn learning_rates(&self, step: u64) -> [f64; 3] {
        self.learning_rates.each_ref().map(|rate| rate.at(step))
    }

    /// The step on `batch`, this worker's rows of the global batch on the model's device. `before_update` returns when the weights may
    /// change.
    ///
    /// # Errors
    /// A parameter without gradient, or a failure of the collective.
    pub fn run(
        &self,
        state: &mut TrainingState,
        batch: &Batch,
        wishes: Wishes,
        reducer: &Reducer,
        laps: &mut Laps,
        before_update: impl FnOnce(),
    ) -> Result<StepOutcome, StepError> {
        self.announce(state, batch.step, wishes)?;
        let attention = self.gradients(state, batch, Some(reducer), laps)?;
        laps.enter(Lap::Checkpoint);
        before_update();
        laps.enter(Lap::Optimizer);
        let grad_norm = self.update(state)?;
        Ok(StepOutcome::new(state, grad_norm, attention))
    }

    /// Sets the dials for step `step` (from 0): from here on the device knows all of a step but its batch.
    pub(super) fn announce(&self, state: &TrainingState, step: u64, wishes: Wishes) -> Result<(), StepError> {
        let average_weight = state.average.as_ref().map_or(0.0, |average| average.weight(step + 1));
        let settings = Settings { learning_rates: self.learning_rates(step), updates: step, average_weight, wishes };
        self.dials.set(&settings).map_err(StepError::Device)
    }

    /// Fills the gradients with those of the global batch's mean loss, and the passengers with that loss and the wishes; without a
    /// `reducer` with this worker's share of them. Returns the attention.
    pub(super) fn gradients(
        &self,
        state: &TrainingState,
        batch: &Batch,
        reducer: Option<&Reducer>,
        laps: &mut Laps,
    ) -> Result<Tensor, StepError> {
        state.parameters.zero_gradients();
        let passengers = state.parameters.passengers();
        no_grad(|| passengers.narrow(0, 1, 3).copy_(&self.dials.wishes()));
        let count = batch.rows();
        let mut attention = Vec::new();
        for start in (0..count).step_by(self.micro_batch) {
            laps.enter(Lap::Forward);
            let part = start..count.min(start.saturating_add(self.micro_batch));
            let (loss, seen) = self.objective.loss(&state.model, &batch.part(&part));
            attention.push(seen);
            // This part's share of the mean over the global batch, so that a plain sum over parts and workers is the mean, however
            // unequal the parts and the workers' shares are.
            let share = loss * (part.len() as f64 / self.global_batch as f64);
            // Before the backward pass: the passengers travel in its first bucket.
            let _ = no_grad(|| passengers.get(0).g_add_(&share));
            laps.enter(Lap::Backward);
            if part.end == count
                && let Some(reducer) = reducer
            {
                reducer.arm();
            }
            self.objective.backward(&state.model, &share);
        }
        laps.enter(Lap::Communication);
        reducer.map_or(Ok(()), Reducer::finish)?;
        Ok(Tensor::cat(&attention, 0))
    }

    /// Changes the weights by the gradients that are there. Returns the gradients' norm. Reads nothing on the host.
    pub(super) fn update(&self, state: &mut TrainingState) -> Result<Tensor, StepError> {
        let Clipped { norm, divisor } = clip(&state.parameters.gradients(), self.clip_norm);
        let loss = state.parameters.passengers().get(0);
        // The update itself looks whether it shall happen.
        let skip = (self.not_finite == NotFinitePolicy::Skip)
            .then(|| no_grad(|| (&norm + &loss).isfinite().logical_not().to_kind(Kind::Float)));
        let (rates, done) = (self.dials.learning_rates(), self.dials.updates());
        state.adamw.step(&state.parameters, &rates, &done, divisor.as_ref(), skip.as_ref()).map_err(StepError::Optimizer)?;
        if let Some(average) = &mut state.average {
            average.follow(&state.parameters, &self.dials.average_weight(), skip.as_ref());
        }
        Ok(norm)
    }
}
