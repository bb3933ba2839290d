//! How near what the model paints is to real images: FID and KID, for the job that paints.
//!
//! Beside the composed scenes stand two rows that say what the figures are worth: reconstructions, for which nothing but the painting
//! can be at fault, and one half of the real images against the other, which no model can be expected to fall below.

use super::figure::share;
use super::{BadInput, JobContext};
use crate::collectives::Collective;
use crate::data::LabelledImages;
use crate::evaluation::fid::{FEATURES, Inception, Moments, frechet_distance, kernel_distance};
use crate::inference::{Decoder, find_slots};
use crate::model::LatentSlotDiffusion;
use crate::training::random::Draws;
use anyhow::{Context, Result};
use common::config::FidConfig;
use common::run_dir::replace_file;
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Fewest real images: two in either half.
const FEWEST: u64 = 4;
/// Most images of a side whose features are kept for KID, drawn at random: 80 MB.
const KEPT: u64 = 10_000;

/// The network and the real images.
pub(super) struct Judge {
    config: FidConfig,
    inception: Inception,
    source: LabelledImages,
}

/// Images number `rows` of a set, u8 [B, H, W, 3].
type Images<'a> = dyn Fn(Range<u64>) -> Result<Tensor> + 'a;

/// One line of the report.
#[derive(Debug, Serialize)]
struct Figures {
    name: &'static str,
    /// On the left and on the right side of the comparison.
    images: [u64; 2],
    fid: f64,
    kid: f64,
    /// Over the subsets; none where there is but one.
    kid_std: Option<f64>,
}

impl Judge {
    /// Loads what `[fid]` names; none without that table.
    ///
    /// # Errors
    /// Images or weights that cannot be read or are not what they should be.
    pub(super) fn open(context: &JobContext) -> Result<Option<Self>> {
        let Some(config) = context.config.fid.clone() else {
            tracing::info!("composed scenes are not judged: fid.weights names no Inception to judge them by");
            return Ok(None);
        };
        let source = LabelledImages::open(&context.runtime, &context.config.data, config.split.name())?;
        let count = source.count();
        if count < FEWEST {
            let split = config.split.name();
            return Err(BadInput::message(format!("fid.split: {split} has {count} images; {FEWEST} are needed")).into());
        }
        let inception = Inception::load(&config, context.device, &context.runtime)?;
        Ok(Some(Self { config, inception, source }))
    }

    /// Judges the model of `step` by what all workers paint together: scenes that `compose` makes, and reconstructions. Writes `fid.json`
    /// and returns the table for the terminal; null where this worker is not the leader.
    ///
    /// # Errors
    /// Images that cannot be read, a failure of the transport, a report that cannot be written.
    pub(super) fn judge(
        &self,
        context: &mut JobContext,
        step: u64,
        (model, decoder): (&LatentSlotDiffusion, &Decoder),
        compose: &Images<'_>,
    ) -> Result<Value> {
        let (device, draws) = (context.device, Draws::new(context.config.run.seed));
        let images = |rows: Range<u64>| Ok(self.source.images(&rows.collect::<Vec<_>>())?);
        let reconstruct = |rows: Range<u64>| {
            let places = rows.start as usize..rows.end as usize;
            let slots = find_slots(model, draws, &images(rows)?, places.clone(), device);
            Ok(decoder.decode(model, &slots.conditioning, places))
        };
        let all = self.source.count();
        let count = if self.config.real == 0 { all } else { self.config.real.min(all) };
        let real = self.gather(context, "real images", count, &images)?;
        let composed = self.gather(context, "composed scenes", self.config.images, compose)?;
        let reconstructed = self.gather(context, "reconstructions", self.config.images.min(all), &reconstruct)?;
        if !context.place.is_leader() {
            return Ok(Value::Null);
        }
        let [of_real, of_composed, of_reconstructed] = [&real, &composed, &reconstructed].map(Side::whole);
        let ([first, second], kept) = (&real.halves, real.kept_halves());
        let comparisons = [
            ("composed", [&of_composed, &of_real], [&composed.kept, &real.kept]),
            ("reconstructed", [&of_reconstructed, &of_real], [&reconstructed.kept, &real.kept]),
            ("real halves", [first, second], [&kept[0], &kept[1]]),
        ];
        let mut rows = Vec::new();
        for (name, moments, kept) in comparisons {
            rows.push(self.compare(name, moments, kept, context.config.run.seed));
            context.reporter.progress(rows.len() as u64, 3, "distances", &[]);
        }
        self.report(context, step, &rows)
    }

    /// The features of `count` images, which all workers share out; every worker gets all that is kept of them.
    fn gather(&self, context: &mut JobContext, what: &str, count: u64, images: &Images<'_>) -> Result<Side> {
        let mut side = Side::new(count, context.config.run.seed);
        let (mine, batch) = (share(count, context.place), context.config.evaluate.batch as u64);
        for start in mine.clone().step_by(batch as usize) {
            let rows = start..(start + batch).min(mine.end);
            side.add(rows.clone(), &self.inception.features(&images(rows.clone())?));
            context.reporter.progress(rows.end - mine.start, mine.end - mine.start, what, &[]);
        }
        for half in &side.halves {
            half.all_reduce(&mut context.collective)?;
        }
        // Every row is zero on all workers but one, so the sum gathers.
        context.collective.all_reduce_sum(&side.kept)?;
        Ok(side)
    }

    fn compare(&self, name: &'static str, moments: [&Moments; 2], kept: [&Tensor; 2], seed: u64) -> Figures {
        let [left, right] = moments;
        let kid = kernel_distance(kept[0], kept[1], self.config.subsets, self.config.subset_size, seed);
        let images = moments.map(|side| side.count() as u64);
        Figures { name, images, fid: frechet_distance(left, right), kid: kid.mean, kid_std: kid.deviation }
    }

    fn report(&self, context: &JobContext, step: u64, rows: &[Figures]) -> Result<Value> {
        let report = json!({
            "step": step,
            "resolution": self.source.side(),
            "split": self.config.split,
            "weights": { "file": self.config.weights, "sha256": self.inception.digest },
            "subsets": self.config.subsets,
            "subset_size": self.config.subset_size,
            "distances": rows,
        });
        let file = context.run.distances();
        let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
        replace_file(&file, text.as_bytes(), 0o644).with_context(|| file.display().to_string())?;
        Ok(json!({ "report": file.display().to_string(), "sha256": self.inception.digest, "distances": table(rows) }))
    }
}

/// What is known of the features of one set of images.
struct Side {
    count: u64,
    /// Those of the first and of the second half of the images.
    halves: [Moments; 2],
    /// The rows whose features are kept, ascending.
    rows: Vec<u64>,
    /// Features of these rows, f32 [kept, 2048].
    kept: Tensor,
}

impl Side {
    fn new(count: u64, seed: u64) -> Self {
        let mut rows: Vec<u64> = (0..count).collect();
        if count > KEPT {
            let chosen = sample(&mut ChaCha8Rng::seed_from_u64(seed), count as usize, KEPT as usize);
            rows = chosen.iter().map(|row| row as u64).collect();
            rows.sort_unstable();
        }
        let kept = Tensor::zeros([rows.len() as i64, FEATURES], (Kind::Float, Device::Cpu));
        Self { count, halves: [Moments::new(FEATURES), Moments::new(FEATURES)], rows, kept }
    }

    /// Takes the features [B, 2048] of some consecutive rows.
    fn add(&mut self, rows: Range<u64>, features: &Tensor) {
        let middle = (self.count / 2).clamp(rows.start, rows.end);
        let parts = features.split_with_sizes([middle - rows.start, rows.end - middle].map(|length| length as i64), 0);
        self.halves.iter_mut().zip(&parts).for_each(|(half, part)| half.add(part));
        let kept = [rows.start, rows.end].map(|row| self.rows.partition_point(|&kept| kept < row));
        let places: Vec<i64> = self.rows[kept[0]..kept[1]].iter().map(|row| (row - rows.start) as i64).collect();
        let target = self.kept.narrow(0, kept[0] as i64, places.len() as i64);
        target.shallow_clone().copy_(&features.index_select(0, &Tensor::from_slice(&places)));
    }

    fn whole(&self) -> Moments {
        self.halves[0].with(&self.halves[1])
    }

    /// The kept features of either half.
    fn kept_halves(&self) -> [Tensor; 2] {
        let middle = self.rows.partition_point(|&row| row < self.count / 2) as i64;
        [self.kept.narrow(0, 0, middle), self.kept.narrow(0, middle, self.rows.len() as i64 - middle)]
    }
}

/// The figures as a table for the terminal, with a warning under it where there are so few images that a covariance has not full rank.
fn table(rows: &[Figures]) -> String {
    let mut lines = vec![format!("{:<16}{:>9}{:>9}{:>12}{:>12}{:>10}", "", "images", "beside", "FID", "KID x 1000", "+-")];
    for Figures { name, images, fid, kid, kid_std } in rows {
        let deviation = kid_std.map_or("-".to_owned(), |deviation| format!("{:.3}", 1e3 * deviation));
        let [left, right] = images;
        lines.push(format!("{name:<16}{left:>9}{right:>9}{fid:>12.3}{:>12.3}{deviation:>10}", 1e3 * kid));
    }
    let fewest = rows.iter().flat_map(|row| row.images).min().unwrap_or_default();
    if fewest <= FEATURES as u64 {
        lines.push(format!(
            "FID of {fewest} images is far above that of many: compare it with figures of as many alone, or go by KID."
        ));
        lines.push(format!("More than {FEATURES} give covariances of full rank; published figures are of 10,000 and more."));
    }
    lines.join("\n")
}
