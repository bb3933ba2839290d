//! One optimizer step of Latent Slot Diffusion: a batch in, changed weights out.
//!
//! The objective is the paper's (section 3): slots of the image condition the denoiser of the image's latent, and everything that is
//! trained learns from the mean squared error of the prediction alone.

use super::ema::MovingAverage;
use super::optimizer::{AdamW, clip_factor};
use super::parameters::{FlatParameters, Group, ParametersError};
use super::random::{Draws, Purpose};
use super::schedule::LearningRate;
use crate::collectives::{Collective, CollectiveError};
use crate::data::{Batch, to_unit_range};
use crate::diffusion::NoiseSchedule;
use crate::model::{Autoencoder, LatentSlotDiffusion};
use common::config::Config;
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

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

    /// The flat tensors in a fixed order: parameters, first moments, second moments, moving average.
    pub fn flat(&self) -> Vec<Tensor> {
        let moments = [self.parameters.values(), self.adamw.exp_avg(), self.adamw.exp_avg_sq()];
        moments.into_iter().chain(self.average.as_ref().map(MovingAverage::values)).map(Tensor::shallow_clone).collect()
    }
}

/// What a step leaves to look at. Tensors of one element are not read until somebody asks, so nothing waits for the device.
pub struct StepOutcome {
    /// Mean squared error over the global batch.
    pub loss: Tensor,
    /// Global norm of the gradients before clipping.
    pub grad_norm: Tensor,
    /// Whether any worker was asked to stop.
    pub stop: bool,
    /// Attention of the slots on this worker's images [B, K, h, w], without graph.
    pub attention: Tensor,
}

/// The recipe of a step: everything that stays the same over a run.
pub struct StepRecipe {
    schedule: NoiseSchedule,
    draws: Draws,
    learning_rates: [LearningRate; 3],
    clip_norm: f64,
    /// Latents are multiplied by this: the autoencoder's scaling factor and `diffusion.latent_scale`.
    latent_factor: f64,
    device: Device,
}

impl StepRecipe {
    /// The recipe that a configuration describes, for latents with the given scaling factor.
    pub fn new(config: &Config, scaling_factor: f64, device: Device) -> Self {
        Self {
            schedule: NoiseSchedule::new(&config.diffusion, device),
            draws: Draws::new(config.run.seed),
            learning_rates: LearningRate::of_groups(&config.train),
            clip_norm: config.train.clip_norm,
            latent_factor: scaling_factor * config.diffusion.latent_scale,
            device,
        }
    }

    /// The learning rates of backbone, Slot Attention and UNet at `step`.
    pub fn learning_rates(&self, step: u64) -> [f64; 3] {
        self.learning_rates.each_ref().map(|rate| rate.at(step))
    }

    /// The step on `batch`, whose rows are `rows` of the global batch; `stop` says that this worker was asked to stop.
    ///
    /// # Errors
    /// A failure of the collective.
    pub fn run(
        &self,
        state: &mut TrainingState,
        batch: &Batch,
        rows: Range<usize>,
        stop: bool,
        collective: &mut dyn Collective,
    ) -> Result<StepOutcome, CollectiveError> {
        let attention = self.gradients(state, batch, rows, stop, collective)?;
        let (passengers, update) = (state.parameters.passengers(), batch.step + 1);
        let outcome_loss = passengers.get(0).copy();
        let stop = passengers.double_value(&[1]) > 0.0;
        let (grad_norm, scale) = clip_factor(&state.parameters.gradients(), self.clip_norm);
        state.adamw.step(&state.parameters, &self.learning_rates(batch.step), update, scale.as_ref());
        if let Some(average) = &mut state.average {
            average.follow(&state.parameters, update);
        }
        Ok(StepOutcome { loss: outcome_loss, grad_norm, stop, attention })
    }

    /// Fills the gradients with those of the global batch's mean loss, and the passengers with that loss and the wish to stop.
    /// Returns the attention.
    fn gradients(
        &self,
        state: &TrainingState,
        batch: &Batch,
        rows: Range<usize>,
        stop: bool,
        collective: &mut dyn Collective,
    ) -> Result<Tensor, CollectiveError> {
        state.parameters.zero_gradients();
        let (loss, attention) = self.loss(&state.model, batch, rows);
        // Each worker's part of the mean over the global batch, so that a plain sum over the workers is the mean.
        let share = loss / collective.world() as f64;
        state.model.backward(&share);
        no_grad(|| {
            let passengers = state.parameters.passengers();
            passengers.get(0).copy_(&share.detach());
            let _ = passengers.get(1).fill_(f64::from(u8::from(stop)));
        });
        collective.all_reduce_sum(state.parameters.reduced())?;
        Ok(attention.detach())
    }

    /// The mean squared error on a batch, and the attention of the slots.
    fn loss(&self, model: &LatentSlotDiffusion, batch: &Batch, rows: Range<usize>) -> (Tensor, Tensor) {
        let step = batch.step;
        let normal = |purpose, shape: &[i64]| self.draws.normal(step, purpose, rows.clone(), shape).to_device(self.device);
        let timesteps = self.draws.integers(step, Purpose::Timesteps, rows.clone(), self.schedule.timesteps());
        let timesteps = timesteps.to_device(self.device);

        let moments = batch.moments.to_device(self.device).to_kind(Kind::Float);
        let posterior_noise = normal(Purpose::PosteriorNoise, &latent_shape(&moments));
        let z = Autoencoder::sample(&moments, &posterior_noise) * self.latent_factor;
        let noise = normal(Purpose::DiffusionNoise, &latent_shape(&moments));
        let z_t = self.schedule.add_noise(&z, &noise, &timesteps);

        let features = model.backbone.forward(&to_unit_range(&batch.images.to_device(self.device)));
        let slot_noise = normal(Purpose::InitialSlots, &model.slot_attention.slots_shape());
        let slots = model.slot_attention.forward(&features, &model.slot_attention.initial_slots(&slot_noise));
        let prediction = model.unet.forward(&z_t, &timesteps, &slots.conditioning);
        let target = self.schedule.target(&z, &noise, &timesteps).to_kind(prediction.kind());
        (prediction.mse_loss(&target, tch::Reduction::Mean), slots.attention)
    }
}

/// [C, h, w] of the latents whose moments are [B, 2 C, h, w].
fn latent_shape(moments: &Tensor) -> [i64; 3] {
    let size = moments.size();
    [size[1] / 2, size[2], size[3]]
}
