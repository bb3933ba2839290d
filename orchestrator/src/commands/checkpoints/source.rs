//! Whose checkpoints a command is about: a run's folder, or any place that holds checkpoints.

use std::path::Path;

use common::checkpoint::{CheckpointError, Inspector, Manifest, Sighting};
use common::config::{CheckpointConfig, Config, load};
use common::journal::{self, Event};
use common::run_dir::RunDir;
use common::storage::Store;

use crate::exit::{Failure, OrBadInput};
use crate::run_folder::FolderError;

/// Where the checkpoints are, and what is known about their run.
pub(in crate::commands) struct Source {
    /// As on the command line, without the step.
    pub(super) name: String,
    /// The run's configuration, unless only a place was named.
    pub(super) config: Option<Config>,
    /// `checkpoint.url`, then `checkpoint.also`.
    pub(super) places: Vec<Place>,
    /// Step and generation of every commit that the journal tells of, and when it was.
    commits: Vec<(u64, u64, String)>,
}

/// One store of a run's checkpoints.
pub(super) struct Place {
    /// What the configuration calls it: `url`, `also 1`.
    pub(super) label: String,
    pub(super) inspector: Inspector,
}

impl Source {
    /// Opens a run's folder, or a folder or URL that holds checkpoints.
    pub(in crate::commands) async fn open(name: &str) -> Result<Self, Failure> {
        let folder = RunDir::new(name);
        if name.contains("://") || !folder.run_toml().is_file() {
            return Self::bare(name).await;
        }
        let config = load::from_file(&folder.run_toml(), &[]).or_bad_input()?;
        let CheckpointConfig { url, also, .. } = &config.checkpoint;
        let url = url.clone().unwrap_or_else(|| folder.checkpoints().display().to_string());
        let mut places = Vec::new();
        for (index, url) in std::iter::once(&url).chain(also).enumerate() {
            let label = if index == 0 { "url".to_owned() } else { format!("also {index}") };
            places.push(Place { label, inspector: Inspector::new(Store::open(url).or_bad_input()?) });
        }
        let entries = journal::read(&folder.journal()).or_bad_input()?;
        let commit = |entry: journal::Entry| match entry.event {
            Event::CheckpointCommitted { step, .. } => Some((step, entry.generation, entry.time)),
            _ => None,
        };
        let commits = entries.into_iter().filter_map(commit).collect();
        Ok(Self { name: name.to_owned(), config: Some(config), places, commits })
    }

    /// A place without a run.
    async fn bare(name: &str) -> Result<Self, Failure> {
        let inspector = Inspector::new(Store::open(name).or_bad_input()?);
        if !name.contains("://") && (!Path::new(name).is_dir() || inspector.sightings().await?.is_empty()) {
            return Err(FolderError::NoRun { folder: name.into() }).or_bad_input();
        }
        let places = vec![Place { label: "url".into(), inspector }];
        Ok(Self { name: name.to_owned(), config: None, places, commits: Vec::new() })
    }

    /// When a checkpoint was committed, if the journal says so.
    pub(super) fn committed_at(&self, sighting: &Sighting) -> Option<&str> {
        let is_it = |(step, generation, _): &&(u64, u64, String)| (*step, *generation) == (sighting.step, sighting.generation);
        self.commits.iter().rev().find(is_it).map(|(_, _, time)| time.as_str())
    }

    /// All places, for messages.
    pub(super) fn urls(&self) -> String {
        self.places.iter().map(|place| place.inspector.url()).collect::<Vec<_>>().join(", ")
    }

    /// The committed checkpoints of all places, newest first, and the first place first among equals; those of `step` if that is named.
    ///
    /// # Errors
    /// A store that fails, or bad input: there are none.
    pub(super) async fn committed(&self, step: Option<u64>) -> Result<Vec<(&Place, Sighting)>, Failure> {
        let mut found = Vec::new();
        for place in &self.places {
            let sightings = place.inspector.sightings().await?.into_iter().filter(|sighting| sighting.committed);
            found.extend(sightings.map(|sighting| (place, sighting)));
        }
        if found.is_empty() {
            return Err(Failure::bad_input(format!("no checkpoints in {}", self.urls())));
        }
        found.sort_by_key(|(_, sighting)| std::cmp::Reverse((sighting.step, sighting.generation)));
        let Some(step) = step else { return Ok(found) };
        let mut steps: Vec<String> = found.iter().map(|(_, sighting)| sighting.step.to_string()).collect();
        steps.dedup();
        found.retain(|(_, sighting)| sighting.step == step);
        if found.is_empty() {
            let text = format!("no checkpoint of step {step} in {}; there are those of step {}", self.urls(), steps.join(", "));
            return Err(Failure::bad_input(text));
        }
        Ok(found)
    }

    /// The newest checkpoint, of `step` if that is named, whose manifest is whole; says on standard error which are passed over.
    ///
    /// # Errors
    /// A store that fails, or bad input: there is none.
    pub(super) async fn newest(&self, step: Option<u64>) -> Result<(&Place, Manifest), Failure> {
        let mut last = None;
        for (place, sighting) in self.committed(step).await? {
            match place.inspector.manifest(&sighting).await {
                Ok(manifest) => return Ok((place, manifest)),
                Err(error) if error.is_damage() => last = Some(passed_over(&sighting, error)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(|| Failure::bad_input(format!("no checkpoints in {}", self.urls())), Failure::from))
    }
}

/// Says that a damaged checkpoint is passed over.
pub(super) fn passed_over(sighting: &Sighting, error: CheckpointError) -> CheckpointError {
    eprintln!("passed over step {}: {error}", sighting.step);
    error
}

/// A checkpoint as it is named on the command line: `RUN`, or `RUN@STEP`.
pub(super) fn split_step(text: &str) -> (&str, Option<u64>) {
    match text.rsplit_once('@') {
        Some((run, step)) if !run.is_empty() && step.bytes().all(|digit| digit.is_ascii_digit()) => match step.parse() {
            Ok(step) => (run, Some(step)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_what_follows_the_last_at_sign() {
        for (text, run, step) in [
            ("runs/a", "runs/a", None),
            ("runs/a@1000", "runs/a", Some(1000)),
            ("s3://me@b/a@20", "s3://me@b/a", Some(20)),
            ("runs/me@home", "runs/me@home", None),
            ("a@99999999999999999999", "a@99999999999999999999", None),
            ("@7", "@7", None),
        ] {
            assert_eq!(split_step(text), (run, step));
        }
    }
}
