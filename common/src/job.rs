//! The jobs that a worker can do. Both binaries name them, and each has its folder within a run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the workers of one launch do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Train backbone, slot attention and UNet.
    Train,
    /// Draw the built-in data set.
    Scenes,
    /// A published data set to shards of images.
    Import,
    /// Train the KL autoencoder.
    Autoencoder,
    /// Images to posterior moments.
    Encode,
    /// Held-out figures and pictures.
    Evaluate,
    /// What slots know about their objects.
    Probe,
    /// The library of slots, sorted into concepts.
    Concepts,
    /// Scenes composed from the slots of that library, or from named ones.
    Compose,
    /// Images with slots removed, replaced, swapped or interpolated.
    Edit,
}

impl Job {
    /// Every job, in the order in which an experiment goes through them.
    pub const ALL: [Self; 10] = [
        Self::Scenes,
        Self::Import,
        Self::Autoencoder,
        Self::Encode,
        Self::Train,
        Self::Evaluate,
        Self::Probe,
        Self::Concepts,
        Self::Compose,
        Self::Edit,
    ];

    /// Whether a launch of this job goes on where one before it was stopped.
    #[must_use]
    pub fn keeps_progress(self) -> bool {
        match self {
            Self::Train | Self::Scenes | Self::Import | Self::Autoencoder | Self::Encode | Self::Concepts => true,
            Self::Evaluate | Self::Probe | Self::Compose | Self::Edit => false,
        }
    }

    /// The name on command lines and in folders.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Scenes => "scenes",
            Self::Import => "import",
            Self::Autoencoder => "autoencoder",
            Self::Encode => "encode",
            Self::Evaluate => "evaluate",
            Self::Probe => "probe",
            Self::Concepts => "concepts",
            Self::Compose => "compose",
            Self::Edit => "edit",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A job name that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "there is no job `{0}`: the jobs are scenes, import, autoencoder, encode, train, evaluate, probe, concepts, compose and edit"
)]
pub struct UnknownJob(String);

impl FromStr for Job {
    type Err = UnknownJob;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|job| job.name() == name).ok_or_else(|| UnknownJob(name.into()))
    }
}
