//! `[checkpoint]`: when training is saved, where, and what of it is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `[checkpoint]`: how often, where, how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// URL for checkpoints; absent: `checkpoints/` in the run folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where each checkpoint is written too, after it is committed at `url`: a fast place first, a durable one after it. What one place
    /// refuses is saved in the others, and copied there at the end. A run goes on from the newest of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Steps between checkpoints (one is always saved at the end).
    pub every_steps: u64,
    /// Minutes after which one is saved in any case; 0 for never.
    pub every_minutes: f64,
    /// What happens when a checkpoint is due while the one before is still being written.
    pub when_busy: WhenBusy,
    /// Newest checkpoints to keep, 2 or more.
    pub keep_last: usize,
    /// Those of every so many steps are kept for ever; 0 for none.
    pub keep_every: u64,
    /// So many are kept for being the best by `best_by`.
    pub keep_best: usize,
    /// What makes one better than another.
    pub best_by: BestBy,
}

/// What checkpoints are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The smallest loss, the mean over the steps since the record before.
    #[default]
    Loss,
    /// The smallest loss of held-out images. This and the others are figures of `[train.evaluation]`; a checkpoint of a step without an
    /// evaluation is not among the best.
    HeldOutLoss,
    /// The largest adjusted Rand index over objects' pixels.
    FgAri,
    /// The largest mIoU.
    Miou,
    /// The largest mBO.
    Mbo,
}

impl BestBy {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::HeldOutLoss => "held-out-loss",
            Self::FgAri => "fg-ari",
            Self::Miou => "miou",
            Self::Mbo => "mbo",
        }
    }

    /// The figure of an evaluation that it is, if it is one.
    #[must_use]
    pub fn evaluation(self) -> Option<&'static str> {
        match self {
            Self::Loss => None,
            Self::HeldOutLoss => Some("loss"),
            Self::FgAri => Some("fg_ari"),
            Self::Miou => Some("miou"),
            Self::Mbo => Some("mbo"),
        }
    }

    /// Whether it compares what was found with the truth.
    #[must_use]
    pub fn needs_masks(self) -> bool {
        matches!(self, Self::FgAri | Self::Miou | Self::Mbo)
    }

    /// A number that is the smaller, the better a checkpoint with this figure is.
    #[must_use]
    pub fn cost(self, figure: f64) -> f64 {
        if self.needs_masks() { -figure } else { figure }
    }
}

impl fmt::Display for BestBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happens when a checkpoint is due while the one before is still being written. One that is saved for the end, or because somebody
/// asked for it, is waited for in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// Training waits until that one is done.
    #[default]
    Wait,
    /// This one is left out.
    Skip,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            url: None,
            also: Vec::new(),
            every_steps: 1000,
            every_minutes: 0.0,
            when_busy: WhenBusy::Wait,
            keep_last: 2,
            keep_every: 0,
            keep_best: 0,
            best_by: BestBy::default(),
        }
    }
}
