//! The loop: batches in, steps, records, checkpoints, until the last step or the wish to stop.

use super::pictures::segmentation;
use super::rehearsal::Rehearsal;
use super::step::{StepOutcome, StepRecipe, TrainingState};
use super::window::{Figures, Window};
use crate::checkpointing::Saver;
use crate::data::{Batch, Loader, Slice};
use crate::jobs::JobContext;
use crate::metrics::{MetricsWriter, Record};
use common::config::Config;
use common::control::{Phase, Spent};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tch::Tensor;

/// What rank 0 writes while all workers train.
pub struct Leader {
    /// Checkpoints.
    pub saver: Saver,
    /// `metrics.jsonl` and TensorBoard.
    pub metrics: MetricsWriter,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Steps done since the run began.
    pub step: u64,
    /// Whether it was asked to end before the last step.
    pub stopped: bool,
    /// Mean loss of the last record.
    pub loss: Option<f64>,
    /// Images per second over all workers since this generation's first step ended; data, logs and checkpoints included.
    pub images_per_second: Option<f64>,
}

/// A training run from where it was restored to its end.
pub struct Training<'a> {
    /// The recipe of every step.
    pub recipe: StepRecipe,
    /// What the steps change.
    pub state: &'a mut TrainingState,
    /// The batches, from the first step to do.
    pub loader: Loader,
    /// This worker's part of every batch.
    pub slice: Slice,
    /// Present on rank 0.
    pub leader: Option<Leader>,
    /// A misfortune that was ordered.
    pub rehearsal: Rehearsal,
    /// What had been spent at the last record.
    pub booked: Spent,
}

impl Training<'_> {
    /// Trains from step `first` on; returns when every save is committed.
    ///
    /// # Errors
    /// Data that cannot be read, a loss that is not finite, a checkpoint that cannot be written, or a failure of the collective.
    pub fn run(mut self, first: u64, context: &mut JobContext) -> anyhow::Result<Ended> {
        let config = context.config.clone();
        let mut ended = Ended { step: first, stopped: false, loss: None, images_per_second: None };
        let mut window = Window::default();
        let reporter = context.reporter.clone();
        reporter.resume_at(first);
        self.booked = reporter.activity().pulse().spent;
        let mut rate = None;
        loop {
            reporter.enter(Phase::Data);
            let Some(batch) = self.loader.next_batch()? else { break };
            reporter.enter(Phase::Compute);
            let stop = context.stop.requested();
            let outcome = self.recipe.run(self.state, &batch, self.slice.rows(), stop, context.collective.as_mut())?;
            let StepOutcome { loss, grad_norm, stop, attention } = outcome;
            ended.step = batch.step + 1;
            ended.stopped = stop && ended.step < config.train.steps;
            reporter.step(ended.step);
            window.push(ended.step, loss, grad_norm);
            self.picture(ended.step, &batch, &attention, &config);
            self.write_down(&mut ended, &mut window, &config, context)?;
            self.rehearsal.after_step(ended.step)?;
            if ended.stopped {
                break;
            }
            let (since, step) = *rate.get_or_insert((Instant::now(), ended.step));
            let images = (ended.step - step) * config.train.global_batch as u64;
            ended.images_per_second = (images > 0).then(|| images as f64 / since.elapsed().as_secs_f64());
        }
        if let Some(leader) = &mut self.leader {
            reporter.enter(Phase::Checkpoint);
            leader.saver.wait()?;
        }
        context.collective.barrier()?;
        Ok(ended)
    }

    /// The record and the checkpoint that are due after a step.
    fn write_down(&mut self, ended: &mut Ended, window: &mut Window, config: &Config, context: &JobContext) -> anyhow::Result<()> {
        let step = ended.step;
        let save = ended.stopped || step == config.train.steps || step.is_multiple_of(config.checkpoint.every_steps.max(1));
        // Before a save the figures are read in any case: weights that are no numbers must not replace good ones.
        if (save || step.is_multiple_of(config.train.log_every.max(1)))
            && let Some(figures) = window.close()?
        {
            ended.loss = Some(figures.loss);
            self.record(step, figures, config, context);
        }
        if save && let Some(leader) = &mut self.leader {
            context.reporter.enter(Phase::Checkpoint);
            self.rehearsal.before_save(step)?;
            leader.saver.save(self.state, step)?;
        }
        Ok(())
    }

    /// On rank 0, every `train.picture_every` steps, draws what the slots see.
    fn picture(&self, step: u64, batch: &Batch, attention: &Tensor, config: &Config) {
        let every = config.train.picture_every;
        let Some(leader) = self.leader.as_ref().filter(|_| every > 0 && step.is_multiple_of(every)) else { return };
        match segmentation(step, &batch.images, &attention.to_device(tch::Device::Cpu)) {
            Ok(picture) => leader.metrics.picture(picture),
            Err(error) => tracing::warn!("no picture of step {step}: {error}"),
        }
    }

    /// Reports the figures up to `step` steps, and on rank 0 writes them down.
    fn record(&mut self, step: u64, figures: Figures, config: &Config, context: &JobContext) {
        let spent = context.reporter.activity().pulse().spent;
        let recent = spent.since(&std::mem::replace(&mut self.booked, spent));
        let seconds = recent.total().max(1e-9);
        let images_per_second = (figures.steps * config.train.global_batch) as f64 / seconds;
        let shown = [
            ("loss", figures.loss),
            ("grad_norm", figures.grad_norm),
            ("images_per_second", images_per_second),
            ("data_stall", recent.data / seconds),
        ];
        let more = [("collective", recent.collective / seconds), ("checkpoint", recent.checkpoint / seconds), ("seconds", seconds)];
        let rates = self.recipe.learning_rates(step - 1);
        let [backbone, slot_attention, unet] = rates;
        let rates =
            [("learning_rate/backbone", backbone), ("learning_rate/slot_attention", slot_attention), ("learning_rate/unet", unet)];
        let all: Vec<(&str, f64)> = shown.into_iter().chain(more).chain(rates).collect();
        context.reporter.progress(step, config.train.steps, "steps", &shown);
        if let Some(leader) = &self.leader {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
            let figures: BTreeMap<String, f64> = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            leader.metrics.record(Record { step, generation: context.place.generation, time, figures });
        }
    }
}
