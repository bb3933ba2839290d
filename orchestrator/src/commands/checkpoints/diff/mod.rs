//! `orchestrator checkpoints diff`: which tensors of two checkpoints differ and by how much, and what else tells the two apart.

mod comparison;
mod tensors;
mod text;

use std::process::ExitCode;

use common::checkpoint::Manifest;
use serde::Serialize;
use serde_json::{Value, json};

use super::reading::Reading;
use super::source::{Source, split_step};
use crate::commands::output::{colours, print};
use crate::exit::Failure;
use tensors::PartDifference;

/// What tells two checkpoints apart.
#[derive(Debug, Serialize)]
struct Differences {
    /// Where the two are.
    a: String,
    b: String,
    /// Facts that differ, by name.
    facts: Vec<(String, Value, Value)>,
    /// Parts that are there only once.
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
    /// Parts that both have, in the order of `a`.
    parts: Vec<PartDifference>,
    /// Whether every tensor of either is in the other, bit by bit.
    identical: bool,
}

/// Compares `a` with `b`, each `RUN` (its newest) or `RUN@STEP`; a `b` that is a number is a step of `a`'s run. Exit code 1 if their
/// tensors differ.
pub(super) async fn run(a: &str, b: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let (name, step) = split_step(a);
    let first = Source::open(name).await?;
    let (other, other_step) = match b.parse() {
        Ok(step) => (None, Some(step)),
        Err(_) => {
            let (name, step) = split_step(b);
            (Some(Source::open(name).await?), step)
        }
    };
    let second = other.as_ref().unwrap_or(&first);
    let (place_a, manifest_a) = first.newest(step).await?;
    let (place_b, manifest_b) = second.newest(other_step).await?;

    let pairs: Vec<_> = manifest_a.parts.iter().filter_map(|part| Some((part, manifest_b.part(&part.name)?))).collect();
    // Digests are enough to know that two parts are the same.
    let reading = Reading::of(pairs.iter().filter(|(a, b)| a.blake3 != b.blake3).map(|(a, b)| a.bytes + b.bytes).sum());
    let mut parts = Vec::new();
    for (a, b) in pairs {
        reading.now(a.name.clone());
        parts.push(tensors::compare((&place_a.inspector, a), (&place_b.inspector, b), |bytes| reading.read(bytes)).await?);
    }
    drop(reading);
    let (only_in_a, only_in_b) = (missing(&manifest_a, &manifest_b), missing(&manifest_b, &manifest_a));
    let identical = only_in_a.is_empty() && only_in_b.is_empty() && parts.iter().all(PartDifference::is_none);
    let describe = |source: &Source, manifest: &Manifest| format!("{}@{}", source.name, manifest.step);
    let (a, b, facts) = (describe(&first, &manifest_a), describe(second, &manifest_b), facts(&manifest_a, &manifest_b));
    let found = Differences { a, b, facts, only_in_a, only_in_b, parts, identical };
    print(&if as_json { format!("{:#}\n", json!(found)) } else { text::of(&found, colours()) })?;
    Ok(if identical { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names of the parts of `a` that `b` has not.
fn missing(a: &Manifest, b: &Manifest) -> Vec<String> {
    a.parts.iter().filter(|part| b.part(&part.name).is_none()).map(|part| part.name.clone()).collect()
}

/// Everything else that the manifests say and that differs.
fn facts(a: &Manifest, b: &Manifest) -> Vec<(String, Value, Value)> {
    let of = |manifest: &Manifest| {
        let mut facts = vec![
            ("run".to_owned(), json!(manifest.run_id)),
            ("step".to_owned(), json!(manifest.step)),
            ("generation".to_owned(), json!(manifest.generation)),
            ("workers".to_owned(), json!(manifest.world)),
            ("configuration".to_owned(), json!(manifest.config_hash)),
            ("data set".to_owned(), json!(manifest.data_fingerprint)),
            ("loss".to_owned(), json!(manifest.figure)),
        ];
        facts.extend(manifest.extra.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        facts
    };
    let (a, b) = (of(a), of(b));
    let value = |facts: &[(String, Value)], name: &str| {
        facts.iter().find(|(key, _)| key == name).map_or(Value::Null, |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = a.iter().map(|(name, _)| name).collect();
    names.extend(b.iter().map(|(name, _)| name).filter(|name| a.iter().all(|(key, _)| key != *name)));
    let both = names.into_iter().map(|name| (name.clone(), value(&a, name), value(&b, name)));
    both.filter(|(_, a, b)| a != b).collect()
}
