//! Edit images by their slots: remove, replace, swap, change the background, interpolate; or show the slots that there are to choose from.
//!
//! Every worker paints some of the edits. An image is looked at and painted by itself, with noise of its own, so that nothing depends on
//! the number of workers, and an edited picture differs from the repainted one by the edit alone.

mod sheet;
mod studio;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::figure::{self, share};
use super::{BadInput, JobContext};
use crate::checkpointing::{load_weights, open_stores};
use crate::data::LabelledImages;
use crate::evaluation::grid;
use crate::inference::Decoder;
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use anyhow::{Context, Result};
use common::config::{Edit, EditImage, EditTask, edit_tasks};
use common::run_dir::replace_file;
use serde_json::{Value, json};
use sheet::{Sheet, titles};
use std::collections::BTreeMap;
use studio::{Studio, open_files};

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let config = context.config.clone();
    let split = config.edit.as_ref().map(|edit| edit.split).unwrap_or_default().name();
    let source = LabelledImages::open(&context.runtime, &config.data, split)?;
    let tasks = edit_tasks(&config, source.count()).map_err(BadInput::new)?;
    // All workers look at all files, so that all of them know when one is not as it should be.
    let files = open_files(&tasks, source.side())?;
    let autoencoder = Autoencoder::load(&config.autoencoder, context.device, &context.runtime)?;
    let decoder = Decoder::new(&config, autoencoder, context.device);
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, context.device);
    let stores = open_stores(&config, &context.run)?;
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;

    let draws = Draws::new(config.run.seed);
    let studio = Studio { model, decoder, source, files, draws, device: context.device };
    let mine = share(tasks.len() as u64, context.place);
    let mut done = BTreeMap::new();
    for index in mine.clone() {
        let task = &tasks[index as usize];
        let sheet = studio.perform(task)?;
        for (name, picture) in file_names(task).iter().zip(sheet.edited(task)) {
            figure::save(&context.run, name, picture)?;
        }
        done.insert(index, sheet);
        context.reporter.progress(index + 1 - mine.start, mine.end - mine.start, "edits", &[]);
    }
    let slots = config.model.slot_attention.slots as usize;
    let mut sheets = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let layout = sheet::Layout::of(task, studio.source.side(), slots);
        sheets.push(layout.gather(done.remove(&(index as u64)), &mut context.collective)?);
    }
    if context.place.is_leader() { report(context, &tasks, &sheets, step, split) } else { Ok(Value::Null) }
}

/// The files of a task's pictures, within the folder of pictures.
fn file_names(task: &EditTask) -> Vec<String> {
    let name = &task.name;
    match task.edit.pictures() {
        0 | 1 => vec![format!("edits/{name}.png")],
        pictures => (1..=pictures).map(|step| format!("edits/{name}-{step}.png")).collect(),
    }
}

/// Writes the grids and `edit.json`; the summary of the job.
fn report(context: &JobContext, tasks: &[EditTask], sheets: &[Sheet], step: u64, split: &str) -> Result<Value> {
    let slots = context.config.model.slot_attention.slots as usize;
    let save = |file: &str, shows: bool| -> Result<Option<String>> {
        let chosen = tasks.iter().zip(sheets).filter(|(task, _)| (task.edit == Edit::Show) == shows);
        let rows: Vec<_> = chosen.map(|(_, sheet)| sheet.tiles.clone()).collect();
        if rows.is_empty() { Ok(None) } else { figure::save(&context.run, file, &grid(&titles(shows, slots), &rows)).map(Some) }
    };
    let (picture, slots_picture) = (save("edit.png", false)?, save("slots.png", true)?);
    let edits: Vec<Value> = tasks.iter().zip(sheets).map(|(task, sheet)| entry(context, task, sheet)).collect();
    let report = json!({
        "step": step,
        "split": split,
        "picture": picture,
        "slots_picture": slots_picture,
        "edits": edits,
    });
    let file = context.run.edits();
    let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
    replace_file(&file, text.as_bytes(), 0o644).with_context(|| file.display().to_string())?;
    let summary = [("step", json!(step)), ("edits", json!(edits.len())), ("report", json!(file.display().to_string()))];
    let pictures = [("picture", picture), ("slots_picture", slots_picture)];
    let pictures = pictures.into_iter().filter_map(|(name, path)| Some((name, json!(path?))));
    Ok(summary.into_iter().chain(pictures).map(|(name, value)| (name.to_owned(), value)).collect())
}

/// What was done to one image. Slots are numbered from 1, as in recipes and pictures.
fn entry(context: &JobContext, task: &EditTask, sheet: &Sheet) -> Value {
    let image = |image: &EditImage| match image {
        EditImage::Row(row) => json!(row),
        EditImage::File(file) => json!(file),
    };
    let figures = &sheet.figures;
    let edit = match &task.edit {
        Edit::Show => Value::Null,
        Edit::Remove(slots) => json!({"remove": slots.iter().map(|slot| slot + 1).collect::<Vec<_>>()}),
        Edit::Mix { with, shares, .. } => {
            json!({"slot": figures.slot + 1, "with": image(with), "with_slot": figures.with_slot + 1, "shares": shares})
        }
    };
    let paths = file_names(task).into_iter().zip(&figures.changes);
    let pictures = paths.map(|(name, [inside, outside])| {
        let path = context.run.pictures().join(name);
        json!({"picture": path.display().to_string(), "change_inside": inside, "change_outside": outside})
    });
    json!({
        "name": task.name,
        "image": image(&task.image),
        "edit": edit,
        "pixels_of_slots": figures.pixels,
        "pictures": pictures.collect::<Vec<_>>(),
    })
}
