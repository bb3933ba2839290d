//! How near what the model paints is to real images: FID and KID, for the job that paints.
//!
//! Beside the composed scenes stand two rows that say what the figures are worth: reconstructions, for which nothing but the painting
//! can be at fault, and one half of the real images against the other, which no model can be expected to fall below.

mod kept;
mod side;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

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
use kept::{MadeFrom, read, write};
use serde::Serialize;
use serde_json::{Value, json};
use side::Side;
use std::ops::Range;
use tch::Tensor;

/// Fewest real images: two in either half.
const FEWEST: u64 = 4;

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
        let real = self.real(context, count, &images)?;
        let composed = self.gather(context, "composed scenes", self.config.images, compose)?;
        let reconstructed = self.gather(context, "reconstructions", self.config.images.min(all), &reconstruct)?;
        let Some(real) = real.filter(|_| context.place.is_leader()) else { return Ok(Value::Null) };
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

    /// The features of the first `count` real images, as an earlier run of the job has left them or as all workers find them now; there for
    /// rank 0.
    fn real(&self, context: &mut JobContext, count: u64, images: &Images<'_>) -> Result<Option<Side>> {
        let made_from = MadeFrom {
            fingerprint: self.source.fingerprint().to_owned(),
            images: count,
            weights: self.inception.digest.clone(),
            seed: context.config.run.seed,
        };
        let folder = context.run.real_features();
        let kept = if context.place.is_leader() { read(&folder, &made_from) } else { None };
        let there = Tensor::from_slice(&[i64::from(kept.is_some())]);
        context.collective.all_reduce_sum(&there)?;
        if there.int64_value(&[0]) > 0 {
            context.reporter.progress(count, count, "real images, known from before", &[]);
            return Ok(kept);
        }
        let side = self.gather(context, "real images", count, images)?;
        if context.place.is_leader()
            && let Err(error) = write(&folder, &made_from, &side)
        {
            tracing::warn!("{}: the real images will be looked at again the next time: {error:#}", folder.display());
        }
        Ok(Some(side))
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
