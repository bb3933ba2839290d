//! What slots know about their objects: labels read off the slots of the trained model, of the same model before training, and by a guess
//! that never looks.
//!
//! All workers find slots and match them to objects; the probes, which are small, are trained by the first.

use super::figure::{self, batches};
use super::{BadInput, JobContext};
use crate::checkpointing::{load_weights, open_stores};
use crate::collectives::Collective;
use crate::data::LabelledImages;
use crate::evaluation::{Picture, grid, score};
use crate::inference::{enlarge, find_slots, segment, to_vec};
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::probing::{Probe, Reading, Target, chart, constant, judge, split};
use crate::training::random::Draws;
use anyhow::{Context, Result, bail};
use common::config::ProbeConfig;
use common::run_dir::replace_file;
use common::shards::{LabelKind, ObjectLabel};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let (config, device) = (context.config.clone(), context.device);
    let source = LabelledImages::open_with_masks(&context.runtime, &config.data, config.probe.split.name())?;
    let labels = source.object_labels()?;
    let images = if config.probe.images == 0 { source.count() } else { source.count().min(config.probe.images as u64) };
    let network = |initial| LatentSlotDiffusion::new(&config.model, Sizes::of(&config), initial, device);
    let model = network(Initial::Unset);
    let stores = open_stores(&config, &context.run)?;
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;

    let finder = Finder { source: &source, images, objects: labels.iter().map(|label| label.objects).max().unwrap_or(0) };
    let trained = finder.find(context, &model, "trained")?;
    drop(model);
    let untrained = finder.find(context, &network(Initial::Seed(config.run.seed)), "untrained")?;
    if !context.place.is_leader() {
        return Ok(Value::Null);
    }
    let tables = labels.into_iter().map(|label| Ok((source.label(&label, 0..images)?.flatten(0, 1), label)));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let trained = trained.probe(context, &tables, images, "trained")?;
    let untrained = untrained.probe(context, &tables, images, "untrained")?;
    report(context, step, images, &tables, &[trained, untrained])
}

/// Finds slots and matches them to objects.
struct Finder<'a> {
    source: &'a LabelledImages,
    /// The first so many.
    images: u64,
    /// Most objects of an image.
    objects: usize,
}

/// Objects with a slot matched to them, ordered by image.
struct Found {
    /// Image * most objects of an image + object, i64 [N].
    places: Tensor,
    /// [N, D].
    slots: Tensor,
    /// Most objects of an image.
    objects: usize,
}

impl Finder<'_> {
    /// The objects of all images, on every worker.
    fn find(&self, context: &mut JobContext, model: &LatentSlotDiffusion, what: &str) -> Result<Found> {
        let draws = Draws::new(context.config.run.seed);
        let [count, size] = model.slot_attention.slots_shape();
        // A slot for every object that there could be, behind a 1 where there is one.
        let mut table = Tensor::zeros([self.images as i64 * self.objects as i64, 1 + size], (Kind::Float, Device::Cpu));
        let mine = batches(self.images, context.config.evaluate.batch, context.place);
        let total = mine.len() as u64;
        for (done, rows) in (1..).zip(mine) {
            let images = self.source.images(&rows.clone().collect::<Vec<_>>())?;
            let found = find_slots(model, draws, &images, rows.start as usize..rows.end as usize, context.device);
            let predicted = segment(&enlarge(&found.attention, self.source.side()))?;
            let (mut places, mut slots) = (Vec::new(), Vec::new());
            for (index, (truth, predicted)) in self.source.masks(rows.clone())?.iter().zip(predicted).enumerate() {
                for object in score(truth, &predicted).objects {
                    let Some(slot) = object.slot else { continue };
                    if usize::from(object.label) > self.objects {
                        let row = rows.start + index as u64;
                        bail!(BadInput::message(format!(
                            "row {row} has an object {} in its mask, but labels for {} only; write the data set again",
                            object.label, self.objects
                        )));
                    }
                    places.push((rows.start as i64 + index as i64) * self.objects as i64 + i64::from(object.label) - 1);
                    slots.push(index as i64 * count + i64::from(slot));
                }
            }
            let slots = found.slots.flatten(0, 1).index_select(0, &Tensor::from_slice(&slots).to_device(context.device));
            let slots = slots.to_device(Device::Cpu);
            let marked = Tensor::cat(&[Tensor::ones([places.len() as i64, 1], (Kind::Float, Device::Cpu)), slots], 1);
            let _ = table.index_copy_(0, &Tensor::from_slice(&places), &marked);
            context.reporter.progress(done, total, &format!("batches ({what})"), &[]);
        }
        // Every row is zero on all workers but one, so the sum gathers.
        context.collective.all_reduce_sum(&table)?;
        let places = table.select(1, 0).nonzero().squeeze_dim(1);
        let slots = table.index_select(0, &places).narrow(1, 1, size);
        Ok(Found { places, slots, objects: self.objects })
    }
}

/// What the probes of one model say.
struct Probed {
    learned_from: usize,
    held_out: usize,
    labels: Vec<Label>,
}

/// One label of it.
struct Label {
    name: String,
    /// The classes of a category.
    classes: Option<i64>,
    reading: Reading,
    guess: Reading,
    chart: Picture,
}

impl Found {
    /// Trains the probes and judges them.
    fn probe(&self, context: &JobContext, tables: &[(Tensor, ObjectLabel)], images: u64, what: &str) -> Result<Probed> {
        let (config, seed) = (&context.config.probe, context.config.run.seed);
        let of_image = |place: i64| place as u64 / self.objects as u64;
        let image_of = to_vec::<i64>(&self.places)?.into_iter().map(of_image).collect::<Vec<_>>();
        let (learned_from, held_out) = split(&image_of, images, config.hold_out, seed);
        let part = |objects: &[i64]| {
            let objects = Tensor::from_slice(objects);
            let slots = self.slots.index_select(0, &objects).to_device(context.device);
            (slots, objects)
        };
        let ((slots, learned), (held_out_slots, held)) = (part(&learned_from), part(&held_out));
        let targets = tables.iter().map(|(table, label)| Target::new(label, &table.index_select(0, &self.places)));
        let sides = targets.map(|target| (target.select(&learned, context.device), target.select(&held, context.device)));
        let (sides, unknown): (Vec<_>, Vec<_>) = sides.partition(|(learned, held)| learned.known() > 0 && held.known() > 0);
        if sides.is_empty() {
            bail!(too_few(image_of.len(), what, config));
        }
        let unknown: Vec<&str> = unknown.iter().map(|(target, _)| target.name.as_str()).collect();
        if !unknown.is_empty() {
            tracing::warn!("of no object is there {}: left out", unknown.join(", "));
        }
        let (targets, held_out_targets): (Vec<_>, Vec<_>) = sides.into_iter().unzip();

        let probe = Probe::new(&targets, slots.size()[1], seed, context.device)?;
        let unit = format!("steps ({what})");
        probe.train(&slots, &targets, config, |done, loss| {
            context.reporter.progress(done, config.steps, &unit, &[("loss", loss)]);
        })?;
        let said = probe.predict(&held_out_slots);
        let judged = targets.iter().zip(&held_out_targets).zip(said);
        let labels = judged.map(|((learned_from, right), said)| label(learned_from, right, &said, what));
        let labels = labels.collect::<Result<_>>()?;
        Ok(Probed { learned_from: learned_from.len(), held_out: held_out.len(), labels })
    }
}

fn too_few(objects: usize, what: &str, config: &ProbeConfig) -> BadInput {
    let all = if config.images == 0 { "there are no more images in this split" } else { "raise probe.images" };
    BadInput::message(format!(
        "{objects} objects were found by the {what} model, too few to hold some of them out of the training of probes; {all}"
    ))
}

/// What is said about one label, beside a guess.
fn label(learned_from: &Target, right: &Target, said: &Tensor, what: &str) -> Result<Label> {
    let reading = judge(right, said);
    let guess = judge(right, &constant(learned_from, said.size()[0]));
    let chart = chart(right, said, &format!("{what} {:.2}", headline(&reading)))?;
    Ok(Label { name: right.name.clone(), classes: right.classes(), reading, guess, chart })
}

/// The figure that tells most: accuracy, or R2.
fn headline(reading: &Reading) -> f64 {
    match reading {
        Reading::Category { accuracy } => *accuracy,
        Reading::Figures { r2, .. } => r2.unwrap_or(0.0),
    }
}

/// Writes `probe.json` and the picture; the summary of the job.
fn report(
    context: &JobContext,
    step: u64,
    images: u64,
    tables: &[(Tensor, ObjectLabel)],
    [trained, untrained]: &[Probed; 2],
) -> Result<Value> {
    let charts = [trained, untrained].map(|probed| probed.labels.iter().map(|label| label.chart.clone()).collect());
    let titles: Vec<String> = trained.labels.iter().map(|label| label.name.clone()).collect();
    let picture = figure::save(&context.run, "probe.png", &grid(&titles, &charts))?;
    let other = |name: &str| untrained.labels.iter().find(|label| label.name == name).map(|label| &label.reading);
    let labels = trained.labels.iter().map(|label| {
        json!({
            "name": label.name,
            "classes": label.classes,
            "names": class_names(tables, &label.name),
            "trained": label.reading,
            "untrained": other(&label.name),
            "constant": label.guess,
        })
    });
    let config = &context.config.probe;
    let report = json!({
        "step": step,
        "split": config.split,
        "images": images,
        "hold_out": config.hold_out,
        "objects": {"learned_from": trained.learned_from, "held_out": trained.held_out},
        "labels": labels.collect::<Vec<_>>(),
        "picture": picture,
    });
    let file = context.run.probes();
    let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
    replace_file(&file, text.as_bytes(), 0o644).with_context(|| file.display().to_string())?;
    Ok(json!({"step": step, "report": file.display().to_string(), "picture": picture, "probes": table(trained, other)}))
}

/// The names of a label's classes, where they are known.
fn class_names<'a>(tables: &'a [(Tensor, ObjectLabel)], label: &str) -> Option<&'a [String]> {
    match &tables.iter().find(|(_, table)| table.name == label)?.1.kind {
        LabelKind::Category(names) if !names.is_empty() => Some(names),
        _ => None,
    }
}

/// The figures as a table for the terminal.
fn table<'a>(trained: &Probed, untrained: impl Fn(&str) -> Option<&'a Reading>) -> String {
    let head = format!("{} held-out objects", trained.held_out);
    let mut lines = vec![format!("{head:<28}{:>10}{:>11}{:>10}", "trained", "untrained", "constant")];
    for label in &trained.labels {
        let sides = [Some(&label.reading), untrained(&label.name), Some(&label.guess)];
        let mut line = |what: &str, figure: fn(&Reading) -> Option<f64>| {
            let [trained, untrained, constant] =
                sides.map(|side| side.and_then(figure).map_or_else(|| "-".to_owned(), |value| format!("{value:.3}")));
            lines.push(format!("{:<28}{trained:>10}{untrained:>11}{constant:>10}", format!("{}, {what}", label.name)));
        };
        match label.reading {
            Reading::Category { .. } => line("accuracy", |reading| Some(headline(reading))),
            Reading::Figures { .. } => {
                line("R2", |reading| if let Reading::Figures { r2, .. } = reading { *r2 } else { None });
                line("MSE in [-1, 1]", |reading| if let Reading::Figures { mse, .. } = reading { Some(*mse) } else { None });
            }
        }
    }
    lines.join("\n")
}
