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
}

impl Record {
    /// The record in a line; none in a line that a crash has torn.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
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
