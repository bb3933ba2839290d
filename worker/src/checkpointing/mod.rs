//! Tensors to checkpoint parts and back. `common::checkpoint` keeps the bytes safe; here they get their meaning.
//!
//! Parts: `weights-<folder>` and `ema-<folder>` for each of the three networks, under the official implementation's names and in its
//! safetensors layout, so that exporting a network is copying a file; and `exp_avg-<module>` and `exp_avg_sq-<module>` with AdamW's
//! moments under the same names. The workers share the parts, in writing and in reading, whatever their number was when they were written.

mod judgement;
mod load;
mod parts;
mod progress;
mod save;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

pub use judgement::Judgement;
pub use load::{Restored, Restorer, draw_nonce, load_weights};
pub use save::{SaveTo, Saver};

use common::checkpoint::{CheckpointError, CheckpointStore, Manifest};
use common::config::{BestBy, Config, config_hash};
use common::run_dir::RunDir;
use common::storage::{StorageError, Store};
use serde_json::json;
use std::path::PathBuf;
use thiserror::Error;

use crate::collectives::CollectiveError;
use crate::model::weights::WeightsError;
use crate::training::detours::Detours;

/// Why a checkpoint could not be saved or used.
#[derive(Debug, Error)]
pub enum CheckpointingError {
    /// The URL of the checkpoints cannot be used.
    #[error("checkpoint.url: {0}")]
    Url(#[from] StorageError),
    /// The bytes could not be stored or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A part does not hold the tensors of the configured networks.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A part that should be there is not.
    #[error("{url}: the checkpoint of step {step} has no part {part}")]
    MissingPart {
        /// The checkpoints.
        url: String,
        /// The checkpoint.
        step: u64,
        /// The part.
        part: String,
    },
    /// The checkpoint belongs to another run.
    #[error("{url}: the checkpoint of step {step} has another {what} ({found}, this run has {expected}); {advice}")]
    Different {
        /// The checkpoints.
        url: String,
        /// The checkpoint.
        step: u64,
        /// What differs.
        what: &'static str,
        /// What the checkpoint has.
        found: String,
        /// What this run has.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// There is no checkpoint to work with.
    #[error("{url}: no checkpoint here; train the run first")]
    Nothing {
        /// The checkpoints.
        url: String,
    },
    /// The workers could not agree.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Checkpoints, and none of them is whole.
    #[error(
        "{url}: no checkpoint here is whole ({reasons}); restore one from elsewhere, or start a new run: this one would begin at step 0"
    )]
    AllDamaged {
        /// The checkpoints.
        url: String,
        /// What is wrong with each.
        reasons: String,
    },
    /// Another worker has found damage in its share.
    #[error("another worker has found damage in its share of the checkpoint; its log says where")]
    DamageElsewhere,
    /// Another worker could not read its share.
    #[error("another worker could not restore the checkpoint; its log says why")]
    FailedElsewhere,
    /// What another worker has sent makes no sense.
    #[error("rank 0 has sent something else than was expected ({cause}); do all workers run the same program?")]
    Garbled {
        /// What is wrong with it.
        cause: String,
    },
    /// The detours of a checkpoint cannot be read.
    #[error("the checkpoint's detours cannot be read: {0}")]
    Detours(#[from] serde_json::Error),
    /// Saves have failed again and again.
    #[error("{times} checkpoints in a row could not be saved, the last one because: {cause}")]
    Again {
        /// How many.
        times: u32,
        /// Why the last one could not.
        cause: Box<Self>,
    },
    /// The run is over, and its last checkpoint is not where it shall be.
    #[error("the checkpoint of step {step}, the last one, could not be saved: {cause}")]
    Last {
        /// The checkpoint.
        step: u64,
        /// Why.
        cause: Box<Self>,
    },
    /// The writing thread could not be started or has ended early.
    #[error("the checkpoint writer stopped: {0}")]
    Writer(String),
}

impl CheckpointingError {
    /// Whether the input is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        if let Self::Again { cause, .. } | Self::Last { cause, .. } = self {
            return cause.is_bad_input();
        }
        if let Self::Checkpoint(CheckpointError::Storage(error)) = self {
            return error.is_refusal();
        }
        matches!(
            self,
            Self::Url(_)
                | Self::Weights(_)
                | Self::Different { .. }
                | Self::Nothing { .. }
                | Self::MissingPart { .. }
                | Self::AllDamaged { .. }
        ) || self.is_foreign()
    }

    /// Whether this run has no business at its checkpoints any more.
    fn is_foreign(&self) -> bool {
        matches!(self, Self::Checkpoint(error) if error.is_foreign())
    }

    /// Whether it is the checkpoint that is damaged, so that an older one is the answer.
    fn is_damage(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_damage(),
            Self::DamageElsewhere => true,
            _ => false,
        }
    }
}

/// The parts' files, each by its name and in pieces.
type Files = [(String, [bytes::Bytes; 2])];

/// Which run a checkpoint belongs to; what must match before it is resumed.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    run_id: String,
    config_hash: String,
    data_fingerprint: String,
    seed: u64,
    global_batch: usize,
    scaling_factor: f64,
    generation: u64,
    world: usize,
}

impl Identity {
    /// The identity of a run of `config` on the data set with the given fingerprint and scaling factor of its latents.
    pub fn new(config: &Config, data_fingerprint: &str, scaling_factor: f64, generation: u64, world: usize) -> Self {
        Self {
            run_id: config.run.name.clone(),
            config_hash: config_hash(config),
            data_fingerprint: data_fingerprint.to_owned(),
            seed: config.run.seed,
            global_batch: config.train.global_batch,
            scaling_factor,
            generation,
            world,
        }
    }

    /// The run's name.
    fn run(&self) -> &str {
        &self.run_id
    }

    /// The manifest of a checkpoint after `step` steps, parts still to come. The sampler's whole state is its position.
    fn manifest(&self, step: u64, detours: &Detours) -> Manifest {
        let mut extra = json!({
            "seed": self.seed,
            "position": step * self.global_batch as u64,
            "scaling_factor": self.scaling_factor,
            "program": env!("CARGO_PKG_VERSION"),
        });
        if *detours != Detours::default() {
            extra["detours"] = json!(detours);
        }
        Manifest {
            version: common::checkpoint::VERSION,
            run_id: self.run_id.clone(),
            step,
            generation: self.generation,
            world: self.world,
            config_hash: self.config_hash.clone(),
            data_fingerprint: self.data_fingerprint.clone(),
            parts: Vec::new(),
            extra,
            figure: None,
            figure_of: BestBy::default(),
        }
    }

    /// That a checkpoint may be resumed by this run.
    fn check(&self, url: &str, manifest: &Manifest) -> Result<(), CheckpointingError> {
        let pairs = [
            ("run name", &manifest.run_id, &self.run_id, "choose a checkpoint.url of this run's own"),
            (
                "configuration",
                &manifest.config_hash,
                &self.config_hash,
                "resume with the configuration that it was trained with, or start a new run",
            ),
            ("data set", &manifest.data_fingerprint, &self.data_fingerprint, "restore the data set, or start a new run"),
        ];
        for (what, found, expected, advice) in pairs {
            if found != expected {
                let short = |text: &str| text.chars().take(16).collect();
                let (found, expected) = (short(found), short(expected));
                return Err(CheckpointingError::Different { url: url.into(), step: manifest.step, what, found, expected, advice });
            }
        }
        Ok(())
    }
}

/// The checkpoints of a run: where the configuration says, else in the run's folder.
///
/// # Errors
/// A URL that cannot be used.
pub fn open_store(config: &Config, run: &RunDir) -> Result<CheckpointStore, CheckpointingError> {
    let folder: PathBuf = run.checkpoints();
    let url = config.checkpoint.url.clone().unwrap_or_else(|| folder.display().to_string());
    Ok(CheckpointStore::new(Store::open(&url)?))
}

/// Everywhere a run's checkpoints are: that store first, then those of `checkpoint.also`.
///
/// # Errors
/// A URL that cannot be used.
pub fn open_stores(config: &Config, run: &RunDir) -> Result<Vec<CheckpointStore>, CheckpointingError> {
    let also = config.checkpoint.also.iter().map(|url| Ok(CheckpointStore::new(Store::open(url)?)));
    std::iter::once(open_store(config, run)).chain(also).collect()
}
