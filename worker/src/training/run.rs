//! The loop: batches in, steps, records, checkpoints, until the last step or the wish to stop.

use super::course::{Course, Wished};
use super::detours::Detours;
use super::graph::{CudaGraphs, StepGraph};
use super::held_out::{Found, HeldOut};
use super::laps::Lap;
use super::pictures::segmentation;
use super::profile::Profile;
use super::readback::Readback;
use super::reduction::Reducer;
use super::rehearsal::Rehearsal;
use super::step::{StepOutcome, TrainingState, Wishes};
use super::window::{Closed, Figures, NotFinite, Window};
use crate::checkpointing::{Judgement, Restorer, Saver};
use crate::collectives::Collective;
use crate::data::{Batch, Loader, Supply, Transfer};
use crate::jobs::JobContext;
use crate::metrics::{MetricsWriter, Record};
use common::config::{Config, NotFinitePolicy, size};
use common::control::{Phase, Setback, SetbackKind};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tch::Tensor;

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
    /// Takes the steps.
    pub steps: StepGraph<CudaGraphs>,
    /// What the steps change.
    pub state: &'a mut TrainingState,
    /// Sums the gradients over the workers.
    pub reducer: Reducer,
    /// Where batches come from.
    pub supply: Supply,
    /// How they get to the device.
    pub transfer: Transfer,
    /// `metrics.jsonl` and TensorBoard; present on rank 0.
    pub metrics: Option<MetricsWriter>,
    /// Saves this worker's share of the checkpoints.
    pub saver: Saver,
    /// Where to go back to.
    pub restorer: Restorer,
    /// Steps with other noise than the first choice.
    pub detours: Detours,
    /// A misfortune that was ordered.
    pub rehearsal: Rehearsal,
    /// Steps to look at closely.
    pub profile: Profile,
    /// Held-out images to look at, if any.
    pub held_out: Option<HeldOut>,
}

impl Training<'_> {
    /// Trains from step `first` on; returns when every save is committed.
    ///
    /// # Errors
    /// Data that cannot be read, a loss that is not finite, a checkpoint that cannot be written, or a failure of the collective.
    pub fn run(mut self, first: u64, context: &mut JobContext) -> anyhow::Result<Ended> {
        let reporter = context.reporter.clone();
        reporter.resume_at(first);
        let mut course = Course::new(&context.config, first, context);
        let _track = self.steps.enter()?;
        let mut loader = self.supply.from(first, &self.detours)?;
        let mut wish = Readback::new(context.device);
        loop {
            self.profile.before_step(&mut course.laps, context.collective.busy().as_secs_f64())?;
            let Some(attention) = self.step(&mut course, &mut loader, &mut wish, context)? else { break };
            match self.write_down(&mut course, &attention, context) {
                Err(error) => {
                    let step = self.go_back(error, &course, context)?;
                    loader = self.supply.from(step, &self.detours)?;
                    course.ended.step = step;
                    course.window = Window::new(course.config.train.not_finite);
                    wish = Readback::new(context.device);
                    continue;
                }
                Ok(()) => self.rehearsal.after_step(course.ended.step)?,
            }
            if course.has_saved() {
                // Wishes from before the save are met; on a GPU some are still on their way.
                wish = Readback::new(context.device);
            }
            self.close_profile(&mut course, context)?;
            if course.ended.stopped {
                break;
            }
            course.count(course.config.train.global_batch);
        }
        self.tell_evaluation(context)?;
        reporter.enter(Phase::Checkpoint);
        self.saver.finish()?;
        context.collective.barrier()?;
        Ok(course.ended)
    }

    /// The next step, if there is one; what its slots attend to, and the batch that they saw.
    fn step(
        &mut self,
        course: &mut Course,
        loader: &mut Loader,
        wish: &mut Readback,
        context: &JobContext,
    ) -> anyhow::Result<Option<(Batch, Tensor)>> {
        let reporter = &context.reporter;
        self.saver.check()?;
        reporter.enter(Phase::Data);
        course.laps.enter(Lap::Data);
        let Some(batch) = loader.next_batch()? else { return Ok(None) };
        reporter.enter(Phase::Compute);
        let batch = self.transfer.bring(batch)?;
        let save = context.save.requested() || course.is_time_to_save(context);
        let wishes = Wishes { stop: context.stop.requested(), save, busy: self.saver.is_busy() };
        let hold = || {
            let before = reporter.enter(Phase::Checkpoint);
            self.saver.before_update();
            reporter.enter(before);
        };
        let outcome = self.steps.run(self.state, &batch, wishes, &self.reducer, &mut course.laps, hold)?;
        course.laps.enter(Lap::Other);
        let StepOutcome { loss, grad_norm, wishes, attention } = outcome;
        let step = batch.step + 1;
        course.ended.step = step;
        if let Some([stop, save, busy]) = wish.exchange(&wishes)?.as_deref() {
            course.ended.stopped = *stop > 0.0 && step < course.config.train.steps;
            course.wished = Wished { save: *save > 0.0, busy: *busy > 0.0 };
        }
        reporter.step(step);
        course.window.push(step, loss, grad_norm);
        Ok(Some((batch, attention)))
    }

    /// After a step whose figures are no numbers: to the newest checkpoint, if that is the policy. Returns its step.
    fn go_back(&mut self, error: anyhow::Error, course: &Course, context: &mut JobContext) -> anyhow::Result<u64> {
        let Some(failed) = error.downcast_ref::<NotFinite>().map(|failed| failed.step) else { return Err(error) };
        if course.config.train.not_finite != NotFinitePolicy::Back {
            return Err(error);
        }
        self.tell_evaluation(context)?;
        context.reporter.enter(Phase::Checkpoint);
        self.saver.wait()?;
        let restored = self.restorer.restore(self.state, &mut context.collective)?;
        let tries = self.detours.since(restored.step);
        if !restored.found || tries >= course.config.cluster.max_restarts {
            let why =
                if restored.found { format!("{tries} other noises led there too") } else { "there is no checkpoint yet".into() };
            return Err(error.context(format!("cannot go back from step {failed}: {why}")));
        }
        self.detours.take(restored.step..failed);
        context.reporter.resume_at(restored.step);
        if context.place.is_leader() {
            context.reporter.setback(Setback { step: failed, kind: SetbackKind::BackTo(restored.step) });
        }
        Ok(restored.step)
    }

    /// When the profile is complete: says what it has found.
    fn close_profile(&mut self, course: &mut Course, context: &JobContext) -> anyhow::Result<()> {
        let last = course.ended.stopped || course.ended.step == course.config.train.steps;
        let busy = context.collective.busy().as_secs_f64();
        if let Some(findings) = self.profile.after_step(&mut course.laps, busy, last)? {
            let (table, trace) = (findings.table(), self.profile.trace().display());
            tracing::info!("profile of {} steps, trace in {trace}\n{table}", findings.steps);
        }
        Ok(())
    }

    /// The picture, the record and the checkpoint that are due after a step.
    fn write_down(&mut self, course: &mut Course, seen: &(Batch, Tensor), context: &JobContext) -> anyhow::Result<()> {
        self.tell_evaluation(context)?;
        let step = course.ended.step;
        // Who was asked to end saves first.
        if !course.ended.stopped {
            self.evaluate(course, context)?;
        }
        self.picture(step, &seen.0, &seen.1, &course.config);
        let save = course.is_to_save();
        // Before a save the figures are read in any case: weights that are no numbers must not replace good ones.
        if save || step.is_multiple_of(course.config.train.log_every.max(1)) {
            let Closed { figures, skipped } = course.window.close()?;
            for &step in skipped.iter().filter(|_| context.place.is_leader()) {
                context.reporter.setback(Setback { step, kind: SetbackKind::Skipped });
            }
            if let Some(figures) = figures {
                course.ended.loss = Some(figures.loss);
                self.record(course, &figures, skipped.len(), context);
            }
        }
        if save {
            context.reporter.enter(Phase::Checkpoint);
            course.laps.enter(Lap::Checkpoint);
            self.rehearsal.before_save(step)?;
            // Before the save: a wish that comes from now on is for a later one.
            context.save.lower();
            let judgement = self.judgement(course);
            self.saver.save(self.state, step, &self.detours, judgement)?;
            course.saved_step = Some(step);
            (course.saved, course.wished) = (Instant::now(), Wished::default());
            course.laps.enter(Lap::Other);
        }
        if course.ended.stopped { self.evaluate(course, context) } else { Ok(()) }
    }

    /// What the state after the step that is done is judged by: its loss, or what was found in held-out images, which is told after the
    /// next step. Nothing if they were not looked at.
    fn judgement(&self, course: &Course) -> Judgement {
        match course.config.checkpoint.best_by.evaluation() {
            None => Judgement::Known(course.ended.loss),
            Some(_) if self.held_out.as_ref().is_some_and(HeldOut::has_looked) => Judgement::ToCome,
            Some(_) => Judgement::Known(None),
        }
    }

    /// Every `train.evaluation.every_steps` steps, looks at held-out images.
    fn evaluate(&mut self, course: &mut Course, context: &JobContext) -> anyhow::Result<()> {
        let step = course.ended.step;
        let Some(held_out) = self.held_out.as_mut().filter(|held_out| held_out.is_due(step)) else { return Ok(()) };
        let before = context.reporter.enter(Phase::Evaluate);
        course.laps.enter(Lap::Evaluation);
        held_out.look(self.state, step)?;
        course.laps.enter(Lap::Other);
        context.reporter.enter(before);
        Ok(())
    }

    /// On rank 0, writes down what was found at the last look, now that a step is done after it.
    fn tell_evaluation(&mut self, context: &JobContext) -> anyhow::Result<()> {
        let Some(Found { evaluation, seconds, sheet }) = self.held_out.as_mut().map_or(Ok(None), HeldOut::found)? else {
            return Ok(());
        };
        if let Some(name) = context.config.checkpoint.best_by.evaluation() {
            self.saver.judge(evaluation.step, evaluation.figures.get(name).copied());
        }
        let Some(metrics) = &self.metrics else { return Ok(()) };
        let (step, generation) = (evaluation.step, context.place.generation);
        let named = evaluation.figures.iter().map(|(name, value)| (format!("evaluation/{name}"), *value));
        let figures = named.chain([("evaluation/seconds".to_owned(), seconds)]).collect();
        metrics.evaluation(Record { step, generation, time: now(), figures });
        if let Some(sheet) = sheet {
            metrics.drawing(step, "evaluation", context.run.training_picture(step), move || sheet.draw());
        }
        context.reporter.evaluated(evaluation);
        Ok(())
    }

    /// On rank 0, every `train.picture_every` steps, draws what the slots see.
    fn picture(&self, step: u64, batch: &Batch, attention: &Tensor, config: &Config) {
        let every = config.train.picture_every;
        let Some(metrics) = self.metrics.as_ref().filter(|_| every > 0 && step.is_multiple_of(every)) else { return };
        match segmentation(step, &batch.images.to_device(tch::Device::Cpu), &attention.to_device(tch::Device::Cpu)) {
            Ok(picture) => metrics.picture(picture),
            Err(error) => tracing::warn!("no picture of step {step}: {error}"),
        }
    }

    /// Reports the figures up to `step` steps, and on rank 0 writes them down.
    fn record(&mut self, course: &mut Course, figures: &Figures, skipped: usize, context: &JobContext) {
        let spent = context.reporter.activity().pulse().spent;
        let busy = context.collective.busy();
        let (spent_before, busy_before) = std::mem::replace(&mut course.booked, (spent, busy));
        let (recent, busy) = (spent.since(&spent_before), busy.saturating_sub(busy_before).as_secs_f64());
        let (step, config) = (course.ended.step, &course.config);
        let seconds = recent.total().max(1e-9);
        let images_per_second = (figures.steps * config.train.global_batch) as f64 / seconds;
        let shown = [
            ("loss", figures.loss),
            ("grad_norm", figures.grad_norm),
            ("images_per_second", images_per_second),
            ("data_stall", recent.data / seconds),
        ];
        let more = [
            // What the job waited for, and what the communication thread did all in all: the difference was hidden by computation.
            ("collective", recent.collective / seconds),
            ("communication", busy / seconds),
            ("checkpoint", recent.checkpoint / seconds),
            ("evaluate", recent.evaluate / seconds),
            // Useful operations of all workers; `status` shows their share of what the devices can do.
            ("model_tflops", images_per_second * size::flops(config).training() as f64 / 1e12),
            ("skipped_steps", skipped as f64),
            ("seconds", seconds),
        ];
        // Last, for they are counted from record to record.
        let reading = self.metrics.as_ref().map_or_else(Vec::new, MetricsWriter::beside_figures);
        let shown: Vec<(&str, f64)> = shown.into_iter().chain(reading).collect();
        let rates = self.steps.recipe().learning_rates(step - 1);
        let [backbone, slot_attention, unet] = rates;
        let rates =
            [("learning_rate/backbone", backbone), ("learning_rate/slot_attention", slot_attention), ("learning_rate/unet", unet)];
        let all: Vec<(&str, f64)> = shown.iter().copied().chain(more).chain(rates).collect();
        context.reporter.progress(step, config.train.steps, "steps", &shown);
        if let Some(metrics) = &self.metrics {
            let figures: BTreeMap<String, f64> = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            metrics.record(Record { step, generation: context.place.generation, time: now(), figures });
        }
    }
}

/// As seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
