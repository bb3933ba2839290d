//! Held-out images, looked at while training (`train.evaluation`): what the slots find in them, whether the slots have collapsed, the loss
//! under noise that is the same each time, and pictures.
//!
//! All workers do it between the same two steps, each for its share of the images and of the pictures. Nobody waits for the sums of what
//! they find: these are asked for there and read after the next step, whose own sums come behind them. Nothing that a step reads is
//! changed, and everything random is drawn for no training step, from seed and row alone. So training takes the same way with and without,
//! and the figures are those of any number of workers, up to rounding.

mod exchange;
mod findings;
mod painting;
mod sheet;
#[cfg(test)]
mod tests;

pub use exchange::Found;
pub use sheet::Sheet;

use super::noise::{NoiseRecipe, StepNoise};
use super::objective::Objective;
use super::random::Draws;
use super::step::TrainingState;
use crate::collectives::Submitter;
use crate::data::{Batch, HeldOutImages, HeldOutSplit, Slice};
use crate::evaluation::{ImageSlots, attention_entropy, score, shares, similarity};
use crate::inference::{INFERENCE, enlarge, find_slots, segment, to_vec};
use crate::jobs::{BadInput, JobContext};
use crate::model::{LatentSlotDiffusion, SlotOutput};
use common::config::{Config, SlotInitialisation};
use exchange::Exchange;
use findings::Findings;
use painting::Painter;
use std::ops::Range;
use std::time::Instant;
use tch::Device;

/// The held-out images of a run, as one worker sees them.
pub struct HeldOut {
    every_steps: u64,
    last_step: u64,
    /// This worker's images, as many at a time as go through the networks together.
    parts: Vec<Part>,
    examiner: Examiner,
    painter: Option<Painter>,
    /// The networks with the moving average for parameters; none where the last iterate is looked at.
    averaged: Option<LatentSlotDiffusion>,
    submitter: Submitter,
    /// What was found and is not told yet.
    pending: Option<Exchange>,
}

/// Some images, and the noise under which they are denoised.
struct Part {
    rows: Range<usize>,
    batch: Batch,
    masks: Option<Vec<Vec<u8>>>,
}

/// What looks at images.
struct Examiner {
    objective: Objective,
    draws: Draws,
    /// Whether slots start at random.
    sampled: bool,
    slots: usize,
    side: usize,
    device: Device,
}

impl HeldOut {
    /// Reads the images; none unless `train.evaluation` asks for them. The latents have the given scaling factor.
    ///
    /// # Errors
    /// A validation split or an autoencoder that is missing or damaged.
    pub fn open(context: &JobContext, state: &TrainingState, scaling_factor: f64) -> anyhow::Result<Option<Self>> {
        let (config, place) = (&context.config, context.place);
        let wanted = &config.train.evaluation;
        if wanted.every_steps == 0 {
            return Ok(None);
        }
        let split = HeldOutSplit::open(&context.runtime, config)?;
        let by = config.checkpoint.best_by;
        if by.needs_masks() && !split.has_masks() {
            let url = &config.data.latents;
            return Err(BadInput::message(format!("checkpoint.best_by = {by} needs masks, and {url} has none")).into());
        }
        let share = |count: usize| Slice { global_batch: count.min(split.count()), rank: place.rank, world: place.world }.rows();
        let (mine, noise) = (share(wanted.samples), NoiseRecipe::new(config));
        let ends = mine.clone().step_by(config.evaluate.batch).map(|start| start..mine.end.min(start + config.evaluate.batch));
        let part = |rows: Range<usize>| {
            let HeldOutImages { images, moments, masks } = split.read(&rows)?;
            let noise = StepNoise { dropped: None, ..noise.draw(INFERENCE, &rows, 0) };
            anyhow::Ok(Part { batch: Batch { step: INFERENCE, images, moments, noise }, rows, masks })
        };
        let parts = ends.map(part).collect::<anyhow::Result<Vec<_>>>()?;
        let painter = match wanted.pictures {
            0 => None,
            _ => Some(Painter::open(context, &split, share(wanted.pictures))?),
        };
        Ok(Some(Self {
            every_steps: wanted.every_steps,
            last_step: config.train.steps,
            parts,
            examiner: Examiner::new(config, scaling_factor, context.device),
            painter,
            averaged: config.evaluate.ema.then(|| state.averaged(config, context.device)).flatten(),
            submitter: context.collective.submitter(),
            pending: None,
        }))
    }

    /// Whether the images are to be looked at after `step` steps.
    pub fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every_steps) || step == self.last_step
    }

    /// Looks at this worker's share of the images after `step` steps, and asks for the sums with what the others find.
    ///
    /// # Errors
    /// What is on the device cannot be read, or a failure of the collective.
    pub fn look(&mut self, state: &TrainingState, step: u64) -> anyhow::Result<()> {
        let _guard = tch::no_grad_guard();
        let begun = Instant::now();
        let model = self.averaged.as_ref().unwrap_or(&state.model);
        let mut findings = Findings::new(self.examiner.slots);
        for part in &self.parts {
            self.examiner.examine(model, part, &mut findings)?;
        }
        let painted = self.painter.as_ref().map(|painter| painter.paint(model)).transpose()?;
        let seconds = begun.elapsed().as_secs_f64();
        self.pending = Some(Exchange::begin(&self.submitter, self.examiner.device, step, seconds, &findings, painted.as_ref())?);
        Ok(())
    }

    /// Whether there is something to be found that nobody has asked for yet.
    pub fn has_looked(&self) -> bool {
        self.pending.is_some()
    }

    /// What all workers have found together, if they have looked and nobody has asked yet. The pictures are there on rank 0.
    ///
    /// # Errors
    /// A failure of the collective.
    pub fn found(&mut self) -> anyhow::Result<Option<Found>> {
        let Some(exchange) = self.pending.take() else { return Ok(None) };
        let (step, seconds, findings, painted) = exchange.end(&self.submitter)?;
        let sheet = self.painter.as_ref().zip(painted).and_then(|(painter, painted)| painter.sheet(painted));
        Ok(Some(Found::new(step, seconds, &findings, sheet)))
    }
}

impl Examiner {
    fn new(config: &Config, scaling_factor: f64, device: Device) -> Self {
        let slots = &config.model.slot_attention;
        Self {
            objective: Objective::new(config, scaling_factor, device),
            draws: Draws::new(config.run.seed),
            sampled: slots.initialisation == SlotInitialisation::Sampled,
            slots: slots.slots as usize,
            side: config.data.resolution,
            device,
        }
    }

    /// Adds what it sees in some images to the findings.
    fn examine(&self, model: &LatentSlotDiffusion, part: &Part, findings: &mut Findings) -> anyhow::Result<()> {
        let find = |draws| find_slots(model, draws, &part.batch.images, part.rows.clone(), self.device);
        let labels = |found: &SlotOutput| segment(&enlarge(&found.attention, self.side));
        let found = find(self.draws);
        let loss = self.objective.denoising(model, &part.batch.to_device(self.device), &found.conditioning);
        findings.add_loss(loss.double_value(&[]), part.rows.len());
        let predicted = labels(&found)?;
        // Other draws of where the slots start.
        let again = self.sampled.then(|| labels(&find(self.draws.detour(1)))).transpose()?;
        for (index, predicted) in predicted.iter().enumerate() {
            let row = index as i64;
            findings.slots.add(&ImageSlots {
                shares: shares(predicted, self.slots),
                similarity: similarity(&to_vec(&found.slots.get(row))?, found.slots.size()[2] as usize),
                attention_entropy: attention_entropy(&to_vec(&found.attention.get(row))?, self.slots),
                stability: again.as_ref().map(|again| score(&again[index], predicted).ari),
            });
            if let Some(masks) = &part.masks {
                findings.objects.add(&score(&masks[index], predicted));
            }
        }
        Ok(())
    }
}
