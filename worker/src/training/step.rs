//! One optimizer step of Latent Slot Diffusion: a batch in, changed weights out.
//!
//! The objective is the paper's (section 3): slots of the image condition the denoiser of the image's latent, and everything that is
//! trained learns from the mean squared error of the prediction alone. What departs from that, `diffusion.snr_gamma`,
//! `diffusion.offset_noise` and `train.slot_dropout`, is off unless the configuration asks for it.

use super::ema::MovingAverage;
use super::optimizer::{AdamW, clip_factor};
use super::parameters::{FlatParameters, Group, ParametersError};
use super::random::{Draws, Purpose};
use super::schedule::LearningRate;
use crate::collectives::{Collective, CollectiveError};
use crate::data::{Batch, to_unit_range};
use crate::diffusion::NoiseSchedule;
use crate::diffusion::guidance::drop_slots;
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
    /// Mean squared error over the global batch, weighted by `diffusion.snr_gamma`.
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
    offset_noise: f64,
    slot_dropout: f64,
    global_batch: usize,
    /// Most rows per forward and backward pass.
    micro_batch: usize,
    /// Latents are multiplied by this: the autoencoder's scaling factor and `diffusion.latent_scale`.
    latent_factor: f64,
    device: Device,
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
            schedule: NoiseSchedule::new(&config.diffusion, device),
            draws: Draws::new(config.run.seed),
            learning_rates: LearningRate::of_groups(&config.train),
            clip_norm: config.train.clip_norm,
            offset_noise: config.diffusion.offset_noise,
            slot_dropout: config.train.slot_dropout,
            global_batch: config.train.global_batch,
            micro_batch: micro_batch(config),
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
        let passengers = state.parameters.passengers();
        let (first, count) = (rows.start, rows.len());
        let mut attention = Vec::new();
        for start in (0..count).step_by(self.micro_batch) {
            let part = start..count.min(start.saturating_add(self.micro_batch));
            let rows = first + part.start..first + part.end;
            let (loss, seen) = self.loss(&state.model, &batch.part(&part), rows);
            // This part's share of the mean over the global batch, so that a plain sum over parts and workers is the mean, however
            // unequal the parts and the workers' shares are.
            let share = loss * (part.len() as f64 / self.global_batch as f64);
            state.model.backward(&share);
            let _ = no_grad(|| passengers.get(0).g_add_(&share));
            attention.push(seen.detach());
        }
        let _ = no_grad(|| passengers.get(1).fill_(f64::from(u8::from(stop))));
        collective.all_reduce_sum(state.parameters.reduced())?;
        Ok(Tensor::cat(&attention, 0))
    }

    /// The loss on a batch, and the attention of the slots.
    fn loss(&self, model: &LatentSlotDiffusion, batch: &Batch, rows: Range<usize>) -> (Tensor, Tensor) {
        let step = batch.step;
        let timesteps = self.draws.integers(step, Purpose::Timesteps, rows.clone(), self.schedule.timesteps());
        let timesteps = timesteps.to_device(self.device);

        let moments = batch.moments.to_device(self.device).to_kind(Kind::Float);
        let shape = latent_shape(&moments);
        let posterior_noise = self.normal(step, Purpose::PosteriorNoise, rows.clone(), &shape);
        let z = Autoencoder::sample(&moments, &posterior_noise) * self.latent_factor;
        let noise = self.noise(step, rows.clone(), shape);
        let z_t = self.schedule.add_noise(&z, &noise, &timesteps);

        let features = model.backbone.forward(&to_unit_range(&batch.images.to_device(self.device)));
        let slot_noise = self.normal(step, Purpose::InitialSlots, rows.clone(), &model.slot_attention.slots_shape());
        let slots = model.slot_attention.forward(&features, &model.slot_attention.initial_slots(&slot_noise));
        let conditioning = self.conditioning(slots.conditioning, step, rows);
        let prediction = model.unet.forward(&z_t, &timesteps, &conditioning);
        let target = self.schedule.target(&z, &noise, &timesteps).to_kind(prediction.kind());
        (self.schedule.loss(&prediction, &target, &timesteps), slots.attention)
    }

    /// Noise for latents of the given shape [C, h, w], [B, C, h, w].
    fn noise(&self, step: u64, rows: Range<usize>, shape: [i64; 3]) -> Tensor {
        let noise = self.normal(step, Purpose::DiffusionNoise, rows.clone(), &shape);
        if self.offset_noise == 0.0 {
            return noise;
        }
        noise + self.normal(step, Purpose::OffsetNoise, rows, &[shape[0], 1, 1]) * self.offset_noise
    }

    /// What the denoiser sees of the slots [B, K, D]: now and then nothing.
    fn conditioning(&self, slots: Tensor, step: u64, rows: Range<usize>) -> Tensor {
        if self.slot_dropout == 0.0 {
            return slots;
        }
        let dropped = self.draws.chances(step, Purpose::SlotDropout, rows, self.slot_dropout);
        drop_slots(&slots, &Tensor::from_slice(&dropped).to_device(self.device))
    }

    fn normal(&self, step: u64, purpose: Purpose, rows: Range<usize>, shape: &[i64]) -> Tensor {
        self.draws.normal(step, purpose, rows, shape).to_device(self.device)
    }
}

/// [C, h, w] of the latents whose moments are [B, 2 C, h, w].
fn latent_shape(moments: &Tensor) -> [i64; 3] {
    let size = moments.size();
    [size[1] / 2, size[2], size[3]]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use common::config::load;

    fn noise(overrides: &[&str]) -> Tensor {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = load::from_str(include_str!("tests.toml"), "tests.toml", &overrides).unwrap();
        StepRecipe::new(&config, 1.0, Device::Cpu).noise(2, 0..500, [2, 4, 4])
    }

    #[test]
    fn offset_noise_is_constant_over_a_latent_and_has_its_strength() {
        let offset = noise(&["diffusion.offset_noise=0.1"]) - noise(&[]);
        let within = offset.flatten(2, 3).std_dim([2].as_slice(), true, false).max().double_value(&[]);
        let deviation = offset.select(3, 0).select(2, 0).std(true).double_value(&[]);
        // 1000 numbers: the standard error is 0.002.
        assert!(within < 1e-6 && (deviation - 0.1).abs() < 0.01, "{within} within a latent, {deviation} among them");
    }
}
