//! What tar files of samples say about the data set that they were exported from.

use super::ImportError;
use super::files::Files;
use common::shards::{ORIGIN, SCALING_FACTOR};
use rayon::prelude::*;
use serde_json::{Map, Value};

/// What stays true when rows come back: what the data set is, what its codes stand for, and what made its latents.
const CARRIED: [&str; 4] = ["kind", "categories", "autoencoder", SCALING_FACTOR];

/// What all archives say alike; nothing if they say nothing.
///
/// # Errors
/// Archives of different data sets, or such a file that is damaged.
pub(super) fn origin(files: &Files) -> Result<Map<String, Value>, ImportError> {
    let is_one = |&at: &usize| files.entries()[at].name.rsplit('/').next() == Some(ORIGIN);
    let places: Vec<usize> = (0..files.entries().len()).filter(is_one).collect();
    let told: Vec<Map<String, Value>> = places.par_iter().map(|&at| read(files, at)).collect::<Result<_, _>>()?;
    for (at, other) in places.iter().zip(&told) {
        if let Some(field) = CARRIED.into_iter().find(|field| other.get(*field) != told[0].get(*field)) {
            let reason = format!("another {field} than {}; import different data sets one by one", files.name_url(places[0]));
            return Err(ImportError::Origin { file: files.name_url(*at), reason });
        }
    }
    Ok(told.into_iter().next().unwrap_or_default())
}

fn read(files: &Files, at: usize) -> Result<Map<String, Value>, ImportError> {
    let refused = |reason: String| ImportError::Origin { file: files.name_url(at), reason };
    let mut told: Map<String, Value> = serde_json::from_slice(&files.read(at)?).map_err(|error| refused(error.to_string()))?;
    told.retain(|field, _| CARRIED.contains(&field.as_str()));
    match told.get(SCALING_FACTOR) {
        Some(factor) if !factor.as_f64().is_some_and(|factor| factor > 0.0) => {
            Err(refused(format!("{SCALING_FACTOR} is {factor}, but has to be a number above 0")))
        }
        _ => Ok(told),
    }
}
