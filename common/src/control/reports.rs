//! What workers report besides their progress: how their devices do before the first step, how the model does on held-out images, and what
//! went wrong without ending the run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How a worker's device does, measured by the worker before its first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkup {
    /// Name of the device, as `NVIDIA H200`; `cpu` for a share of the CPU.
    pub device: String,
    /// Version of its driver, as `570.86.15`.
    pub driver: Option<String>,
    /// Bytes of memory that it has.
    pub memory_total: u64,
    /// Bytes of it that nobody used before this worker came.
    pub memory_free: u64,
    /// Rate of large matrix products in the numbers of the run, in 10^12 floating point operations per second (two per multiply-add).
    pub matmul_tflops: f64,
    /// 10^9 bytes of gradients per second through an all-reduce over all workers; none of a single one.
    pub all_reduce_gbps: Option<f64>,
}

/// A step whose gradients were no numbers, and that did not end the run (`train.not_finite`). Rank 0 tells of it; it is the same on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// The step, counted from 1.
    pub step: u64,
    /// What was done about it.
    pub kind: SetbackKind,
}

/// What was done about a step whose gradients were no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetbackKind {
    /// It changed nothing.
    Skipped,
    /// Training went back to the checkpoint of this step.
    BackTo(u64),
}

impl fmt::Display for Setback {
    /// In one sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step;
        match self.kind {
            SetbackKind::Skipped => write!(f, "step {step} was skipped: its gradients were no numbers"),
            SetbackKind::BackTo(saved) => {
                write!(f, "went back from step {step}, whose gradients were no numbers, to the checkpoint of step {saved}")
            }
        }
    }
}

/// How the model does on held-out images while it is trained (`train.evaluation`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done.
    pub step: u64,
    /// Figures by name, as `fg_ari`; none that is no number.
    pub figures: BTreeMap<String, f64>,
    /// What makes the slots look collapsed, with the figures that say so.
    #[serde(default)]
    pub collapse: Option<String>,
}

impl Evaluation {
    /// What people look at first, in this order.
    const FIRST: [(&str, &str); 6] = [
        ("fg_ari", "FG-ARI"),
        ("miou", "mIoU"),
        ("mbo", "mBO"),
        ("loss", "loss"),
        ("active_slots", "active slots"),
        ("largest_slot", "largest slot"),
    ];
}

impl fmt::Display for Evaluation {
    /// `FG-ARI 0.612, mIoU 0.431, mBO 0.442, loss 0.0312, active slots 5.1, largest slot 0.48`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::FIRST.iter().filter_map(|(name, title)| Some((title, self.figures.get(*name)?)));
        for (index, (title, value)) in found.enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{title} {value:.3}")?;
        }
        Ok(())
    }
}
