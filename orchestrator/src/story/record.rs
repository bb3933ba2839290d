//! One line of `metrics.jsonl`, as far as monitoring needs it.

use std::time::Duration;

use serde::Deserialize;

use super::Time;

/// Figures of the steps since the record before. What an older worker did not write is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Steps done.
    pub(crate) step: u64,
    /// The generation that wrote it.
    pub(crate) generation: u64,
    /// When, as seconds since 1970.
    pub(crate) time: f64,
    /// Seconds that it covers.
    pub(crate) seconds: Option<f64>,
    /// Mean loss.
    pub(crate) loss: Option<f64>,
    /// Norm of the gradients before they are clipped.
    pub(crate) grad_norm: Option<f64>,
    /// Learning rate of the backbone.
    #[serde(rename = "learning_rate/backbone")]
    pub(crate) backbone_rate: Option<f64>,
    /// Learning rate of Slot Attention.
    #[serde(rename = "learning_rate/slot_attention")]
    pub(crate) slot_attention_rate: Option<f64>,
    /// Learning rate of the UNet.
    #[serde(rename = "learning_rate/unet")]
    pub(crate) unet_rate: Option<f64>,
    /// Images per second.
    pub(crate) images_per_second: Option<f64>,
    /// Share of the time in which the step waited for data.
    pub(crate) data_stall: Option<f64>,
    /// Share of the time in the collective.
    pub(crate) collective: Option<f64>,
    /// Share of the time that checkpoints held the step up.
    pub(crate) checkpoint: Option<f64>,
    /// Share of the time that held-out images were looked at.
    pub(crate) evaluate: Option<f64>,
    /// Those that a record of an evaluation has, and no other.
    #[serde(flatten)]
    pub(crate) held_out: HeldOut,
}

/// Figures of held-out images, and how long it took to find them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct HeldOut {
    /// Seconds that the evaluation took; every record of one has them.
    #[serde(rename = "evaluation/seconds")]
    pub(crate) seconds: Option<f64>,
    /// Mean loss.
    #[serde(rename = "evaluation/loss")]
    pub(crate) loss: Option<f64>,
    /// FG-ARI.
    #[serde(rename = "evaluation/fg_ari")]
    pub(crate) fg_ari: Option<f64>,
    /// mIoU.
    #[serde(rename = "evaluation/miou")]
    pub(crate) miou: Option<f64>,
    /// mBO.
    #[serde(rename = "evaluation/mbo")]
    pub(crate) mbo: Option<f64>,
    /// Slots of an image that win at least 1 % of its pixels.
    #[serde(rename = "evaluation/active_slots")]
    pub(crate) active_slots: Option<f64>,
    /// Share of the pixels that the largest slot of an image wins.
    #[serde(rename = "evaluation/largest_slot")]
    pub(crate) largest_slot: Option<f64>,
    /// Entropy of the slots' shares over all images, 1 when all are used alike.
    #[serde(rename = "evaluation/slot_usage_entropy")]
    pub(crate) slot_usage_entropy: Option<f64>,
    /// Cosine similarity between the slots of an image.
    #[serde(rename = "evaluation/slot_similarity")]
    pub(crate) slot_similarity: Option<f64>,
    /// Entropy of a pixel's attention over the slots, 1 when all share it alike.
    #[serde(rename = "evaluation/attention_entropy")]
    pub(crate) attention_entropy: Option<f64>,
    /// Adjusted Rand index between what the slots win from two draws of where they start.
    #[serde(rename = "evaluation/slot_stability")]
    pub(crate) slot_stability: Option<f64>,
}

impl Record {
    /// The record in a line; none in a line that a crash has torn.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Whether it is of an evaluation, and tells nothing of steps.
    pub(crate) fn is_of_evaluation(&self) -> bool {
        self.held_out.seconds.is_some()
    }

    /// When it was written.
    pub(crate) fn written(&self) -> Time {
        seconds(self.time)
    }
}

/// A number of seconds from a file, whatever it is.
pub(super) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_records_new_ones_and_torn_lines() {
        let old = br#"{"step":10,"generation":2,"time":1700000000.5,"loss":null,"learning_rate/unet":1e-4}"#;
        let expected = Record { step: 10, generation: 2, time: 1_700_000_000.5, unet_rate: Some(1e-4), ..Record::default() };
        assert_eq!(Record::parse(old), Some(expected));
        let new = br#"{"step":10,"generation":2,"time":1,"seconds":2.5,"collective":0.25,"data_stall":0.5,"checkpoint":0}"#;
        let record = Record::parse(new).unwrap();
        assert_eq!((record.seconds, record.collective, record.checkpoint), (Some(2.5), Some(0.25), Some(0.0)));
        assert_eq!(Record::parse(&old[..40]), None);
        assert_eq!([f64::NAN, -1.0, 1e300].map(seconds), [Duration::ZERO; 3]);
    }
}
