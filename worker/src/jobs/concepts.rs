//! The library of slots: those of many training images, found by all workers and sorted into concepts by K-means.
//!
//! It is made once for a checkpoint and its settings. `compose` draws from it, and has it made where it is not there.

use super::cutting::Cutter;
use super::figure::{self, share};
use super::{BadInput, JobContext};
use crate::checkpointing::{load_weights, open_stores};
use crate::collectives::Collective;
use crate::concepts::{Clustering, Clusters, Library, LibraryInfo, LibraryWriter, MadeFrom, Points, clear_parts};
use crate::data::LabelledImages;
use crate::evaluation::grid;
use crate::inference::find_slots;
use crate::model::weights::to_safetensors;
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use anyhow::{Context, Result};
use common::config::config_hash;
use serde_json::{Value, json};
use tch::Tensor;

/// Members of each concept in the picture of the library.
const SHOWN_MEMBERS: usize = 8;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let config = context.config.clone();
    let source = LabelledImages::open(&context.runtime, &config.data, "train")?;
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, context.device);
    let stores = open_stores(&config, &context.run)?;
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;
    let Some((library, state)) = library(context, &model, &source, step)? else { return Ok(json!({"stopped": true})) };
    let info = &library.info;
    Ok(json!({
        "step": step,
        "state": state,
        "images": info.made_from.images,
        "slots": info.slots,
        "inertia": info.inertia,
        "library": context.run.concepts().display().to_string(),
        "picture": info.picture,
        "concepts": table(info),
    }))
}

/// The library of the checkpoint of `step`, whose weights `model` has: the one that is there, or a new one. None if a worker was asked to
/// stop.
pub(super) fn library(
    context: &mut JobContext,
    model: &LatentSlotDiffusion,
    source: &LabelledImages,
    step: u64,
) -> Result<Option<(Library, &'static str)>> {
    let folder = context.run.concepts();
    let wanted = made_from(context, model, source, step)?;
    let total = wanted.images * wanted.slots_per_image;
    if total < wanted.concepts as u64 {
        let reason = format!("{total} slots in {} images cannot be sorted into {} concepts", wanted.images, wanted.concepts);
        return Err(BadInput::message(format!("{reason}: lower concepts.count, or take more images")).into());
    }
    // Rank 0 decides for all.
    let there = context.place.is_leader() && Library::open(&folder)?.is_some_and(|library| library.info.made_from == wanted);
    let there = Tensor::from_slice(&[i64::from(there)]);
    context.collective.all_reduce_sum(&there)?;
    let state = if there.int64_value(&[0]) > 0 {
        "there already"
    } else if make(context, model, source, wanted)? {
        "made"
    } else {
        return Ok(None);
    };
    let library = Library::open(&folder)?.with_context(|| format!("{}: the library is gone", folder.display()))?;
    Ok(Some((library, state)))
}

/// What the library is to be made from.
fn made_from(context: &JobContext, model: &LatentSlotDiffusion, source: &LabelledImages, step: u64) -> Result<MadeFrom> {
    let config = &context.config;
    let concepts = &config.concepts;
    let mut weights = blake3::Hasher::new();
    for module in model.modules.iter().filter(|module| module.name != "unet") {
        weights.update(&to_safetensors(&module.variables)?);
    }
    Ok(MadeFrom {
        step,
        config_hash: config_hash(config),
        weights: weights.finalize().to_hex().to_string(),
        data: format!("{}/train", config.data.latents.trim_end_matches('/')),
        fingerprint: source.fingerprint().to_owned(),
        images: if concepts.images == 0 { source.count() } else { source.count().min(concepts.images) },
        slots_per_image: config.model.slot_attention.slots.unsigned_abs(),
        concepts: config.concept_count(),
        restarts: concepts.restarts,
        batch: concepts.batch,
        seed: config.run.seed,
    })
}

/// Makes the library with all workers. False if one of them was asked to stop.
fn make(context: &mut JobContext, model: &LatentSlotDiffusion, source: &LabelledImages, made_from: MadeFrom) -> Result<bool> {
    let (folder, place) = (context.run.concepts(), context.place);
    if place.is_leader() {
        clear_parts(&folder)?;
    }
    context.collective.barrier()?;
    let sizes = &context.config.model.slot_attention;
    let (slot_size, out_size) = (sizes.slot_size.unsigned_abs(), sizes.out_size.unsigned_abs());
    let mut writer = LibraryWriter::create(&folder, place.rank, slot_size as usize, out_size as usize)?;
    if !find(context, model, source, made_from.images, &mut writer)? {
        return Ok(false);
    }
    let per_image = made_from.slots_per_image;
    let first = share(made_from.images, place).start * per_image;
    let total = made_from.images * per_image;
    let points = Points { rows: writer.slots(), first, total, device: context.device };
    let MadeFrom { concepts: clusters, restarts, batch, seed, .. } = made_from;
    let reporter = context.reporter.clone();
    let clusters = Clustering { clusters, restarts, batch, seed }.run(&points, &mut context.collective, |done| {
        reporter.progress(done, restarts as u64, "starts of K-means", &[]);
    })?;
    writer.finish(&clusters)?;
    context.collective.barrier()?;
    if place.is_leader() {
        save(context, model, source, made_from, &writer, clusters)?;
    }
    context.collective.barrier()?;
    Ok(true)
}

/// Finds the slots of this worker's share of the images. False if any worker was asked to stop.
fn find(
    context: &mut JobContext,
    model: &LatentSlotDiffusion,
    source: &LabelledImages,
    images: u64,
    writer: &mut LibraryWriter,
) -> Result<bool> {
    let draws = Draws::new(context.config.run.seed);
    let mine = share(images, context.place);
    let mut stopped = false;
    for start in mine.clone().step_by(context.config.evaluate.batch) {
        stopped = context.stop.requested();
        if stopped {
            break;
        }
        let rows = start..(start + context.config.evaluate.batch as u64).min(mine.end);
        let batch = source.images(&rows.clone().collect::<Vec<_>>())?;
        writer.append(&find_slots(model, draws, &batch, rows.start as usize..rows.end as usize, context.device))?;
        context.reporter.progress(rows.end - mine.start, mine.end - mine.start, "images", &[]);
    }
    let stopped = Tensor::from_slice(&[i64::from(stopped)]);
    context.collective.all_reduce_sum(&stopped)?;
    Ok(stopped.int64_value(&[0]) == 0)
}

/// Puts the library together, draws its picture, and says last of all that it is there.
fn save(
    context: &JobContext,
    model: &LatentSlotDiffusion,
    source: &LabelledImages,
    made_from: MadeFrom,
    writer: &LibraryWriter,
    clusters: Clusters,
) -> Result<()> {
    let folder = context.run.concepts();
    let info = LibraryInfo {
        slots: made_from.images * made_from.slots_per_image,
        inertia: clusters.inertia(),
        sizes: clusters.sizes,
        inertias: clusters.inertias,
        picture: context.run.pictures().join("library.png").display().to_string(),
        made_from,
    };
    writer.assemble(&info, &clusters.centres, context.place.world)?;
    let library = Library::of(info, &folder)?;
    picture(&Cutter { context, model }, source, &library)?;
    Ok(library.info.save(&folder)?)
}

/// One row per concept: members evenly spaced from its centre to its edge.
fn picture(cutter: &Cutter<'_>, source: &LabelledImages, library: &Library) -> Result<()> {
    let mut rows = Vec::new();
    for concept in 0..library.info.made_from.concepts {
        let members = library.members(concept);
        let shown = SHOWN_MEMBERS.min(members.len());
        let spaced = (0..shown).map(|k| members[k * members.len() / shown]);
        rows.push(spaced.map(|member| cutter.cut(source, member.image, member.slot)).collect::<Result<_>>()?);
    }
    figure::save(&cutter.context.run, "library.png", &grid(&["centre".to_owned()], &rows)).map(drop)
}

/// The concepts as a table for the terminal.
fn table(info: &LibraryInfo) -> String {
    let mut lines = vec![format!("{:<10}{:>10}{:>8}", "concept", "slots", "share")];
    for (concept, size) in info.sizes.iter().enumerate() {
        let share = 100.0 * *size as f64 / info.slots.max(1) as f64;
        lines.push(format!("{:<10}{size:>10}{share:>7.1}%", concept + 1));
    }
    lines.join("\n")
}
