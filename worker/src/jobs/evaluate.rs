//! Judge the slots on held-out images: FG-ARI, ARI, mIoU and mBO of the trained model, of the same model before training, and of cells that
//! never look at the image; and a picture grid.

use super::JobContext;
use super::figure::{self, batches, share};
use crate::checkpointing::{load_weights, open_stores};
use crate::collectives::Collective;
use crate::data::LabelledImages;
use crate::evaluation::{Figures, Picture, Sums, grid, in_colours_of_truth, position_cells, score};
use crate::inference::{Decoder, enlarge, find_slots, segment, to_vec};
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use anyhow::{Context, Result};
use common::run_dir::replace_file;
use serde_json::{Value, json};
use tch::Tensor;

/// Training masks that the position-only cells are fitted to.
const FITTED_MASKS: u64 = 300;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let (config, device) = (context.config.clone(), context.device);
    let held_out = LabelledImages::open_with_masks(&context.runtime, &config.data, "validation")?;
    let autoencoder = Autoencoder::load(&config.autoencoder, context.device, &context.runtime)?;
    let decoder = Decoder::new(&config, autoencoder, context.device);
    let network = |initial| LatentSlotDiffusion::new(&config.model, Sizes::of(&config), initial, device);
    let model = network(Initial::Unset);
    let stores = open_stores(&config, &context.run)?;
    // Whoever has no checkpoint hears of it now, not after the figures of the untrained model.
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;
    let samples =
        if config.evaluate.samples == 0 { held_out.count() } else { held_out.count().min(config.evaluate.samples as u64) };

    let position_only = position_only(context, &held_out, samples)?;
    let trained = model_figures(context, &model, &held_out, samples, "trained")?;
    let pictures = context.place.is_leader().then(|| picture_grid(context, &model, &decoder, &held_out)).transpose()?;
    drop(model);
    let untrained = model_figures(context, &network(Initial::Seed(config.run.seed)), &held_out, samples, "untrained")?;

    let Some(pictures) = pictures else { return Ok(Value::Null) };
    let picture = figure::save(&context.run, "evaluate.png", &pictures)?;
    let report = json!({
        "step": step,
        "trained": trained,
        "untrained": untrained,
        "position_only": position_only,
        "picture": picture,
    });
    let file = context.run.evaluation();
    let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
    replace_file(&file, text.as_bytes(), 0o644).with_context(|| file.display().to_string())?;
    let rows = [("trained", &trained), ("untrained", &untrained), ("position only", &position_only)];
    Ok(json!({"step": step, "report": file.display().to_string(), "picture": picture, "scores": table(&rows)}))
}

/// The figures of a model on the first `samples` held-out images, which all workers share out.
fn model_figures(
    context: &mut JobContext,
    model: &LatentSlotDiffusion,
    held_out: &LabelledImages,
    samples: u64,
    what: &str,
) -> Result<Figures> {
    let draws = Draws::new(context.config.run.seed);
    let mine = batches(samples, context.config.evaluate.batch, context.place);
    let (count, mut sums) = (mine.len() as u64, Sums::default());
    for (done, rows) in (1..).zip(mine) {
        let images = held_out.images(&rows.clone().collect::<Vec<_>>())?;
        let slots = find_slots(model, draws, &images, rows.start as usize..rows.end as usize, context.device);
        let predicted = segment(&enlarge(&slots.attention, held_out.side()))?;
        for (truth, predicted) in held_out.masks(rows)?.iter().zip(predicted) {
            sums.add(&score(truth, &predicted));
        }
        context.reporter.progress(done, count, &format!("batches ({what})"), &[("fg_ari", sums.figures().fg_ari)]);
    }
    over_workers(context, &sums)
}

/// The figures of fixed cells, as many as there are slots.
fn position_only(context: &mut JobContext, held_out: &LabelledImages, samples: u64) -> Result<Figures> {
    let train = LabelledImages::open_with_masks(&context.runtime, &context.config.data, "train")?;
    let masks = train.masks(0..train.count().min(FITTED_MASKS))?;
    let cells = position_cells(&masks, train.side(), context.config.model.slot_attention.slots as usize)?;
    let mut sums = Sums::default();
    for row in share(samples, context.place) {
        for truth in held_out.masks(row..row + 1)? {
            sums.add(&score(&truth, &cells));
        }
    }
    over_workers(context, &sums)
}

fn over_workers(context: &mut JobContext, sums: &Sums) -> Result<Figures> {
    let shared = Tensor::from_slice(sums.as_slice());
    context.collective.all_reduce_sum(&shared)?;
    Ok(Sums::from_slice(&to_vec::<f64>(&shared)?).figures())
}

/// One row per scene: image, truth, prediction, reconstruction, and what each slot attends to.
fn picture_grid(
    context: &JobContext,
    model: &LatentSlotDiffusion,
    decoder: &Decoder,
    held_out: &LabelledImages,
) -> Result<Picture> {
    let count = held_out.count().min(context.config.evaluate.pictures as u64);
    let images = held_out.images(&(0..count).collect::<Vec<_>>())?;
    let draws = Draws::new(context.config.run.seed);
    let slots = find_slots(model, draws, &images, 0..count as usize, context.device);
    let attention = enlarge(&slots.attention, held_out.side());
    let predicted = segment(&attention)?;
    let decoded = decoder.decode(model, &slots.conditioning, 0..count as usize);
    let mut rows = Vec::new();
    for (index, truth) in held_out.masks(0..count)?.iter().enumerate() {
        let image = Picture::from_image(&images.get(index as i64))?;
        let mut row = vec![
            image.clone(),
            Picture::labels(held_out.side(), truth.iter().map(|&label| usize::from(label)))?,
            Picture::labels(held_out.side(), in_colours_of_truth(truth, &predicted[index]))?,
            Picture::from_image(&decoded.get(index as i64))?,
        ];
        for weights in attention.get(index as i64).unbind(0) {
            row.push(image.cut_out(&to_vec(&weights)?));
        }
        rows.push(row);
    }
    let titles = ["image", "truth", "slots found", "decoded"].map(str::to_owned).into_iter();
    let slots = (1..=context.config.model.slot_attention.slots).map(|slot| format!("slot {slot}"));
    Ok(grid(&titles.chain(slots).collect::<Vec<_>>(), &rows))
}

/// The figures as a table for the terminal.
fn table(rows: &[(&str, &Figures)]) -> String {
    let images = rows.first().map_or(0, |(_, figures)| figures.images);
    let mut lines = vec![format!("{:<16}{:>8}{:>8}{:>8}{:>8}", format!("{images} scenes"), "FG-ARI", "ARI", "mIoU", "mBO")];
    for (name, Figures { fg_ari, ari, miou, mbo, .. }) in rows {
        lines.push(format!("{name:<16}{fg_ari:>8.3}{ari:>8.3}{miou:>8.3}{mbo:>8.3}"));
    }
    lines.join("\n")
}
