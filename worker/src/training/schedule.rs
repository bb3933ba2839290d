//! Learning rates: linear warm-up per module group, then constant or half a cosine.

use common::config::{Decay, GroupConfig, TrainConfig};

/// The learning rate of one group at a step, as pure arithmetic.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    peak: f64,
    warmup_steps: u64,
    decay: Decay,
    steps: u64,
}

impl LearningRate {
    /// The schedule of `group` over a run of `steps` steps.
    pub fn new(group: &GroupConfig, decay: Decay, steps: u64) -> Self {
        Self { peak: group.learning_rate, warmup_steps: group.warmup_steps, decay, steps }
    }

    /// The schedules of the backbone, of Slot Attention and of the UNet, in this order.
    pub fn of_groups(train: &TrainConfig) -> [Self; 3] {
        let groups = &train.groups;
        [&groups.backbone, &groups.slot_attention, &groups.unet].map(|group| Self::new(group, train.decay, train.steps))
    }

    /// The rate of step `step` (from 0): `peak * (step + 1) / warmup_steps` during warm-up, then the decay over the remaining steps.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let length = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let progress = ((step - self.warmup_steps) as f64 / length).min(1.0);
                self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(warmup_steps: u64, decay: Decay, steps: u64) -> LearningRate {
        LearningRate::new(&GroupConfig { learning_rate: 2.0, warmup_steps }, decay, steps)
    }

    #[test]
    fn known_points() {
        let cosine = schedule(10, Decay::Cosine, 110);
        assert_eq!((cosine.at(0), cosine.at(9), cosine.at(10)), (0.2, 2.0, 2.0));
        assert!((cosine.at(60) - 1.0).abs() < 1e-12);
        assert!(cosine.at(110).abs() < 1e-12 && cosine.at(500).abs() < 1e-12);
        assert_eq!(schedule(0, Decay::Constant, 5).at(1000), 2.0);
    }

    proptest! {
        #[test]
        fn rises_then_never_rises_again(warmup in 0_u64..50, rest in 1_u64..200, cosine: bool) {
            let rate = schedule(warmup, if cosine { Decay::Cosine } else { Decay::Constant }, warmup + rest);
            for step in 0..warmup + rest {
                let (now, next) = (rate.at(step), rate.at(step + 1));
                prop_assert!(now > 0.0 && now <= 2.0);
                if step + 1 < warmup { prop_assert!(next > now) } else { prop_assert!(next <= now) }
            }
        }
    }
}
