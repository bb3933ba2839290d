//! What workers find in held-out images, as numbers that add up over the workers.

use crate::evaluation::{SlotSums, Sums};
use std::collections::BTreeMap;

/// Numbers of the loss.
const LOSS: usize = 2;

/// Sums over images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    /// Sum of the losses of so many images.
    loss: [f64; LOSS],
    /// How well objects are found.
    pub(super) objects: Sums,
    /// What the slots are like.
    pub(super) slots: SlotSums,
}

impl Findings {
    /// Nothing yet, by models with so many slots.
    pub(super) fn new(slots: usize) -> Self {
        Self { loss: [0.0; LOSS], objects: Sums::default(), slots: SlotSums::new(slots) }
    }

    /// Adds the mean loss of `images` images.
    pub(super) fn add_loss(&mut self, mean: f64, images: usize) {
        self.loss[0] += mean * images as f64;
        self.loss[1] += images as f64;
    }

    /// All sums as numbers, to be added to those of other workers.
    pub(super) fn numbers(&self) -> Vec<f64> {
        [&self.loss, self.objects.as_slice(), self.slots.as_slice()].concat()
    }

    /// Sums from the numbers of [`Self::numbers`].
    pub(super) fn from_numbers(numbers: &[f64]) -> Self {
        let (loss, rest) = numbers.split_at(LOSS.min(numbers.len()));
        let (objects, slots) = rest.split_at(Sums::COUNT.min(rest.len()));
        let loss = [0, 1].map(|index| loss.get(index).copied().unwrap_or_default());
        Self { loss, objects: Sums::from_slice(objects), slots: SlotSums::from_slice(slots) }
    }

    /// The means, each with its name; none that is no number.
    pub(super) fn figures(&self) -> BTreeMap<String, f64> {
        let [loss, images] = self.loss;
        let objects = self.objects.figures();
        let found = [("fg_ari", objects.fg_ari), ("ari", objects.ari), ("miou", objects.miou), ("mbo", objects.mbo)];
        let found = found.into_iter().filter(|_| objects.images > 0);
        let slots = self.slots.figures();
        let all = [("loss", loss / images)].into_iter().chain(found).chain(slots.iter().flat_map(|slots| slots.named()));
        all.filter(|(_, value)| value.is_finite()).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What makes the slots look collapsed.
    pub(super) fn collapse(&self) -> Option<String> {
        self.slots.figures()?.collapse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{ImageSlots, score};

    #[test]
    fn findings_travel_as_numbers_and_what_nobody_knows_has_no_figure() {
        let mut findings = Findings::new(2);
        assert_eq!(findings.objects.as_slice().len(), Sums::COUNT);
        assert_eq!((findings.figures().len(), findings.collapse()), (0, None));
        findings.add_loss(0.5, 3);
        findings.add_loss(1.0, 1);
        findings.slots.add(&ImageSlots { shares: vec![1.0, 0.0], similarity: 0.5, attention_entropy: 0.5, stability: None });
        let names = |findings: &Findings| findings.figures().into_keys().collect::<Vec<_>>();
        let without_masks = ["active_slots", "attention_entropy", "largest_slot", "loss", "slot_similarity", "slot_usage_entropy"];
        assert_eq!(names(&findings), without_masks);
        findings.objects.add(&score(&[0, 1, 1, 2], &[0, 1, 1, 0]));
        let there = Findings::from_numbers(&findings.numbers());
        assert_eq!(there, findings);
        assert_eq!((there.figures()["loss"], names(&there).len()), (0.625, 10));
        assert!(there.collapse().is_some());
        findings.add_loss(f64::NAN, 1);
        assert!(!names(&findings).contains(&"loss".to_owned()));
    }
}
