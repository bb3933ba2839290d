//! What the jobs that draw pictures have in common.

use crate::evaluation::Picture;
use anyhow::{Context, Result};
use common::place::Place;
use common::run_dir::{RunDir, replace_file};
use std::fs::create_dir_all;
use std::ops::Range;

/// This worker's consecutive part of `total` items.
pub(super) fn share(total: u64, place: Place) -> Range<u64> {
    let (rank, world) = (place.rank as u64, place.world as u64);
    total * rank / world..total * (rank + 1) / world
}

/// This worker's batches of `total` rows. They are the same whatever the number of workers, so that not even rounding depends on it.
pub(super) fn batches(total: u64, batch: usize, place: Place) -> impl ExactSizeIterator<Item = Range<u64>> {
    let batch = batch as u64;
    let mine = share(total.div_ceil(batch), place);
    (mine.start as usize..mine.end as usize).map(move |index| index as u64 * batch..((index as u64 + 1) * batch).min(total))
}

/// Writes a picture as `name` into the run's folder of pictures and returns its path.
pub(super) fn save(run: &RunDir, name: &str, picture: &Picture) -> Result<String> {
    let path = run.pictures().join(name);
    let folder = path.parent().unwrap_or(&path);
    create_dir_all(folder).with_context(|| folder.display().to_string())?;
    replace_file(&path, &picture.to_png()?, 0o644).with_context(|| path.display().to_string())?;
    Ok(path.display().to_string())
}
