//! Compose new scenes of slots from different images: random members of concepts, named slots, or both; and paint them.
//!
//! Every worker paints some of the scenes. What a scene is made of, and the noise that it is painted from, follow from its seed: nothing
//! depends on the number of workers.

mod composer;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::concepts::library;
use super::fid::Judge;
use super::figure::{self, share};
use super::{BadInput, JobContext};
use crate::checkpointing::{load_weights, open_stores};
use crate::collectives::Collective;
use crate::data::LabelledImages;
use crate::evaluation::{Picture, captioned, grid};
use crate::inference::Decoder;
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use anyhow::{Context, Result};
use common::config::{ComposeTask, compose_tasks};
use common::run_dir::replace_file;
use composer::{Composer, Origin, Scene, paint_at_random};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Scenes in the grid: more are not looked at together.
const MOST_ROWS: usize = 64;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let config = context.config.clone();
    let split = config.compose.as_ref().map(|compose| compose.split).unwrap_or_default();
    let named = LabelledImages::open(&context.runtime, &config.data, split.name())?;
    let tasks = compose_tasks(&config, named.count()).map_err(BadInput::new)?;
    let train = LabelledImages::open(&context.runtime, &config.data, "train")?;
    let autoencoder = Autoencoder::load(&config.autoencoder, context.device, &context.runtime)?;
    let decoder = Decoder::new(&config, autoencoder, context.device);
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, context.device);
    let stores = open_stores(&config, &context.run)?;
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;
    let judge = Judge::open(context)?;
    let library = if judge.is_some() || tasks.iter().any(|task| !task.concepts.is_empty()) {
        match library(context, &model, &train, step)? {
            Some((library, _)) => Some(library),
            None => return Ok(json!({"stopped": true})),
        }
    } else {
        None
    };
    let scenes = tasks.iter().map(|task| Scene::of(task, library.as_ref(), config.run.seed)).collect::<Result<Vec<_>>>()?;
    let composer = Composer { context, model: &model, decoder: &decoder, library: library.as_ref(), train: &train, named: &named };
    let shown = paint(&composer, &tasks, &scenes)?;
    context.collective.all_reduce_sum(&shown)?;
    let fid = match (&judge, &library) {
        (Some(judge), Some(library)) => {
            let (painter, seed) = ((&model, &decoder, context.device), config.run.seed);
            judge.judge(context, step, (&model, &decoder), &|seeds| paint_at_random(library, painter, seed, seeds))?
        }
        _ => Value::Null,
    };
    if !context.place.is_leader() {
        return Ok(Value::Null);
    }
    let composer = Composer { context, model: &model, decoder: &decoder, library: library.as_ref(), train: &train, named: &named };
    let picture = figure::save(&context.run, "compose.png", &composed_grid(&composer, &tasks, &scenes, &shown)?)?;
    report(context, &tasks, &scenes, &json!({ "step": step, "split": split.name(), "picture": picture, "fid": fid }))
}

/// Paints this worker's scenes into a file each. Returns the first of all, u8 in f32 [scenes, H, W, 3]: those of other workers are zeros.
fn paint(composer: &Composer<'_>, tasks: &[ComposeTask], scenes: &[Scene]) -> Result<Tensor> {
    let context = composer.context;
    let side = composer.train.side() as i64;
    let shown = Tensor::zeros([scenes.len().min(MOST_ROWS) as i64, side, side, 3], (Kind::Float, Device::Cpu));
    let mine = share(scenes.len() as u64, context.place);
    let (first, mine) = (mine.start as usize, mine.start as usize..mine.end as usize);
    let mut done = first;
    for batch in scenes[mine.clone()].chunks(context.config.evaluate.batch) {
        for picture in composer.paint(batch)?.unbind(0) {
            figure::save(&context.run, &file_name(&tasks[done]), &Picture::from_image(&picture)?)?;
            if done < MOST_ROWS {
                shown.get(done as i64).copy_(&picture);
            }
            done += 1;
        }
        context.reporter.progress((done - first) as u64, mine.len() as u64, "scenes", &[]);
    }
    Ok(shown)
}

/// The file of a scene, within the folder of pictures.
fn file_name(task: &ComposeTask) -> String {
    format!("composed/{}.png", task.name)
}

/// One row per scene: the scene, then where its slots come from.
fn composed_grid(composer: &Composer<'_>, tasks: &[ComposeTask], scenes: &[Scene], shown: &Tensor) -> Result<Picture> {
    let mut rows = Vec::new();
    for ((task, scene), picture) in tasks.iter().zip(scenes).zip(shown.to_kind(Kind::Uint8).unbind(0)) {
        let mut row = vec![captioned(&Picture::from_image(&picture)?, &task.name)];
        for origin in &scene.origins {
            let caption = match origin {
                Origin::Member { concept, .. } => format!("concept {}", concept + 1),
                Origin::Named { image, slot } => format!("{image} slot {}", slot + 1),
            };
            row.push(captioned(&composer.cut(origin)?, &caption));
        }
        rows.push(row);
    }
    Ok(grid(&["composed".to_owned(), "made of".to_owned()], &rows))
}

/// Writes `compose.json`, which begins with `head`; the summary of the job.
fn report(context: &JobContext, tasks: &[ComposeTask], scenes: &[Scene], head: &Value) -> Result<Value> {
    let entries: Vec<Value> = tasks.iter().zip(scenes).map(|(task, scene)| entry(context, task, scene)).collect();
    let mut report = head.clone();
    report["scenes"] = json!(entries);
    let file = context.run.compositions();
    let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
    replace_file(&file, text.as_bytes(), 0o644).with_context(|| file.display().to_string())?;
    let library = context.run.pictures().join("library.png").display().to_string();
    let mut summary = head.clone();
    summary["composed"] = json!(entries.len());
    summary["report"] = json!(file.display().to_string());
    summary["library_picture"] = json!(library);
    Ok(summary)
}

/// What a picture is made of. Slots and concepts are numbered from 1, as in recipes and pictures.
fn entry(context: &JobContext, task: &ComposeTask, scene: &Scene) -> Value {
    let slots = scene.origins.iter().map(|origin| match origin {
        Origin::Member { concept, member } => {
            json!({"concept": concept + 1, "split": "train", "image": member.image, "slot": member.slot + 1, "member": member.index})
        }
        Origin::Named { image, slot } => json!({"image": image, "slot": slot + 1}),
    });
    let path = context.run.pictures().join(file_name(task));
    json!({"name": task.name, "picture": path.display().to_string(), "seed": task.seed, "slots": slots.collect::<Vec<_>>()})
}
