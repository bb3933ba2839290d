//! Whether the slots have collapsed: how they share the pixels of images among each other, and how alike they are.
//!
//! Two ways of collapse are known: one slot explains everything and the others idle, or all slots are the same. In both the images may
//! still be painted well, so that the loss does not tell.

/// Share of an image's pixels from which on a slot counts as active.
const ACTIVE: f64 = 0.01;
/// More than this share of the pixels for one slot looks like collapse.
const MOST_PIXELS: f64 = 0.95;
/// Slots that are more alike than this, or attention that is more even, look like collapse.
const MOST_ALIKE: f64 = 0.98;
/// Numbers of [`SlotSums`] before the shares of the slots.
const SCALARS: usize = 7;

/// What the slots of one image are like.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSlots {
    /// Share of the pixels that each slot wins [K].
    pub shares: Vec<f64>,
    /// Mean cosine similarity between any two of them, see [`similarity`].
    pub similarity: f64,
    /// See [`attention_entropy`].
    pub attention_entropy: f64,
    /// Adjusted Rand index between what the slots win from two draws of where they start; none where they always start alike.
    pub stability: Option<f64>,
}

/// Share of the labels 0..`slots` among `labels`.
pub fn shares(labels: &[u8], slots: usize) -> Vec<f64> {
    let mut counts = vec![0_u32; slots];
    for &label in labels {
        if let Some(count) = counts.get_mut(usize::from(label)) {
            *count += 1;
        }
    }
    counts.into_iter().map(|count| f64::from(count) / labels.len().max(1) as f64).collect()
}

/// Mean cosine similarity between any two of the slots [K, `size`]; 0 for a single one.
pub fn similarity(slots: &[f32], size: usize) -> f64 {
    let units: Vec<Vec<f64>> = slots.chunks_exact(size.max(1)).map(unit).collect();
    let pairs = units.len() * units.len().saturating_sub(1) / 2;
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let with_those_after =
        |(index, unit): (usize, &Vec<f64>)| units[index + 1..].iter().map(|other| cosine(unit, other)).sum::<f64>();
    units.iter().enumerate().map(with_those_after).sum::<f64>() / pairs.max(1) as f64
}

fn unit(slot: &[f32]) -> Vec<f64> {
    let length = slot.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    slot.iter().map(|&value| f64::from(value) / length).collect()
}

/// Mean entropy of the attention [`slots`, N] of the N pixels over the slots: 0 where each pixel belongs to one slot, 1 where all share it
/// alike.
pub fn attention_entropy(attention: &[f32], slots: usize) -> f64 {
    let pixels = attention.len() / slots.max(1);
    let of_pixel = |pixel: usize| entropy((0..slots).map(|slot| f64::from(attention[slot * pixels + pixel])), slots);
    (0..pixels).map(of_pixel).sum::<f64>() / pixels.max(1) as f64
}

/// Entropy of `count` shares that add up to 1, as a share of the largest that there can be.
fn entropy(shares: impl Iterator<Item = f64>, count: usize) -> f64 {
    let nats: f64 = shares.filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum();
    if count > 1 { nats / (count as f64).ln() } else { 0.0 }
}

/// Sums over images, which add up over workers.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotSums(Vec<f64>);

impl SlotSums {
    /// Of no image yet, for models with so many slots.
    pub fn new(slots: usize) -> Self {
        Self(vec![0.0; SCALARS + slots])
    }

    /// Adds one image.
    pub fn add(&mut self, image: &ImageSlots) {
        let active = image.shares.iter().filter(|share| **share >= ACTIVE).count();
        let largest = image.shares.iter().copied().fold(0.0, f64::max);
        let stable = f64::from(u8::from(image.stability.is_some()));
        let stability = image.stability.unwrap_or(0.0);
        let scalars = [1.0, active as f64, largest, image.similarity, image.attention_entropy, stable, stability];
        self.0.iter_mut().zip(scalars.iter().chain(&image.shares)).for_each(|(sum, term)| *sum += term);
    }

    /// The sums as numbers, to be added to those of other workers.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// Sums from the numbers of [`Self::as_slice`].
    pub fn from_slice(numbers: &[f64]) -> Self {
        Self(numbers.to_vec())
    }

    /// What they say; none without images.
    pub fn figures(&self) -> Option<SlotFigures> {
        let (&[images, active, largest, similarity, attention_entropy, stable, stability], usage) = self.0.split_first_chunk()?;
        let mean = |sum: f64| sum / images;
        (images > 0.0).then(|| SlotFigures {
            slots: usage.len(),
            active: mean(active),
            largest: mean(largest),
            usage_entropy: entropy(usage.iter().map(|sum| mean(*sum)), usage.len()),
            similarity: mean(similarity),
            attention_entropy: mean(attention_entropy),
            stability: (stable > 0.0).then(|| stability / stable),
        })
    }
}

/// What the slots of a set of images are like.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotFigures {
    /// Slots of the model.
    pub slots: usize,
    /// Slots that win at least 1 % of an image's pixels, mean over images.
    pub active: f64,
    /// Share of the pixels that an image's largest slot wins, mean over images.
    pub largest: f64,
    /// Entropy of the slots' shares over all images, from 0 (one slot is used) to 1 (all are used alike).
    pub usage_entropy: f64,
    /// Mean cosine similarity between the slots of an image.
    pub similarity: f64,
    /// From 0 where each pixel belongs to one slot to 1 where all share it alike.
    pub attention_entropy: f64,
    /// Adjusted Rand index between what the slots win from two draws of where they start, where that is drawn.
    pub stability: Option<f64>,
}

impl SlotFigures {
    /// Each with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let always = [
            ("active_slots", self.active),
            ("largest_slot", self.largest),
            ("slot_usage_entropy", self.usage_entropy),
            ("slot_similarity", self.similarity),
            ("attention_entropy", self.attention_entropy),
        ];
        always.into_iter().chain(self.stability.map(|stability| ("slot_stability", stability)))
    }

    /// What makes the slots look collapsed, with the figures that say so. A single slot cannot.
    pub fn collapse(&self) -> Option<String> {
        let Self { largest, similarity, attention_entropy, .. } = *self;
        let signs = [
            (largest > MOST_PIXELS, format!("one slot wins {:.1} % of the pixels of an image", 100.0 * largest)),
            (similarity > MOST_ALIKE, format!("the slots of an image are alike (cosine similarity {similarity:.3})")),
            (
                attention_entropy > MOST_ALIKE,
                format!("all slots share every pixel (attention entropy {attention_entropy:.3} of 1)"),
            ),
        ];
        let signs: Vec<String> = signs.into_iter().filter(|(seen, _)| *seen && self.slots > 1).map(|(_, sign)| sign).collect();
        (!signs.is_empty()).then(|| signs.join("; "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figures(images: &[ImageSlots]) -> SlotFigures {
        let mut sums = SlotSums::new(images[0].shares.len());
        images.iter().for_each(|image| sums.add(image));
        sums.figures().unwrap()
    }

    fn image(shares: &[f64]) -> ImageSlots {
        ImageSlots { shares: shares.to_vec(), similarity: 0.1, attention_entropy: 0.2, stability: None }
    }

    #[test]
    fn each_way_of_collapse_is_told_with_its_figures_and_sound_slots_are_not() {
        let sound = figures(&[image(&[0.6, 0.3, 0.1, 0.0]), image(&[0.0, 0.1, 0.3, 0.6])]);
        assert_eq!((sound.active, sound.largest, sound.collapse()), (3.0, 0.6, None));
        // Each image is one slot's, but not always the same one's.
        let one = figures(&[image(&[0.99, 0.01, 0.0, 0.0]), image(&[0.0, 0.0, 0.0, 1.0])]);
        assert_eq!((one.active, one.collapse().unwrap().as_str()), (1.5, "one slot wins 99.5 % of the pixels of an image"));
        assert!(one.usage_entropy > 0.4);
        let alike = ImageSlots { similarity: 0.99, attention_entropy: 1.0, ..image(&[0.25; 4]) };
        let told = figures(&[alike]).collapse().unwrap();
        assert!(told.contains("similarity 0.990") && told.contains("entropy 1.000 of 1"), "{told}");
        assert_eq!(figures(&[image(&[1.0])]).collapse(), None, "a single slot has everything");
        assert_eq!(SlotSums::new(3).figures(), None);
    }

    #[test]
    fn stability_is_a_mean_over_the_images_that_have_one() {
        let with = |stability| ImageSlots { stability, ..image(&[0.5, 0.5]) };
        assert_eq!(figures(&[with(Some(0.5)), with(Some(1.0))]).stability, Some(0.75));
        assert_eq!(figures(&[with(None)]).stability, None);
    }

    proptest! {
        #[test]
        fn figures_know_neither_the_names_of_slots_nor_the_split_over_workers(
            labels in prop::collection::vec(prop::collection::vec(0_u8..5, 60), 2..8), cut in 0_usize..8,
        ) {
            let images: Vec<ImageSlots> = labels.iter().map(|labels| image(&shares(labels, 5))).collect();
            let whole = figures(&images);
            let renamed: Vec<ImageSlots> = images.iter().map(|one| image(&[&one.shares[2..], &one.shares[..2]].concat())).collect();
            prop_assert!((figures(&renamed).usage_entropy - whole.usage_entropy).abs() < 1e-12);
            prop_assert_eq!(figures(&renamed).active, whole.active);
            let mut parts = [SlotSums::new(5), SlotSums::new(5)];
            images.iter().enumerate().for_each(|(index, image)| parts[usize::from(index >= cut)].add(image));
            let together: Vec<f64> = parts[0].as_slice().iter().zip(parts[1].as_slice()).map(|(a, b)| a + b).collect();
            let together = SlotSums::from_slice(&together).figures().unwrap();
            prop_assert!((together.largest - whole.largest).abs() < 1e-12 && (together.usage_entropy - whole.usage_entropy).abs() < 1e-12);
            let sum: f64 = images[0].shares.iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-12 && (0.0..=1.0 + 1e-12).contains(&whole.usage_entropy));
        }

        #[test]
        fn similarity_is_that_of_directions(
            slots in prop::collection::vec(-1.0_f32..1.0, 12), scales in prop::collection::vec(0.1_f32..10.0, 3),
        ) {
            let longer: Vec<f32> = slots.chunks(4).zip(&scales).flat_map(|(slot, scale)| slot.iter().map(move |value| value * scale)).collect();
            prop_assert!((similarity(&slots, 4) - similarity(&longer, 4)).abs() < 1e-4);
            prop_assert!(similarity(&slots, 4).abs() <= 1.0 + 1e-9);
            let same: Vec<f32> = slots[..4].iter().copied().cycle().take(12).collect();
            prop_assert!((similarity(&same, 4) - 1.0).abs() < 1e-6 || slots[..4].iter().all(|value| *value == 0.0));
        }

        #[test]
        fn attention_is_between_one_slot_per_pixel_and_all_alike(owners in prop::collection::vec(0_usize..3, 20)) {
            let hard: Vec<f32> = (0..3).flat_map(|slot| owners.iter().map(move |owner| f32::from(u8::from(*owner == slot)))).collect();
            prop_assert_eq!(attention_entropy(&hard, 3), 0.0);
            prop_assert!((attention_entropy(&[1.0 / 3.0; 60], 3) - 1.0).abs() < 1e-6);
            let between: Vec<f32> = hard.iter().map(|value| 0.5 * value + 0.5 / 3.0).collect();
            let between = attention_entropy(&between, 3);
            prop_assert!(0.5 < between && between < 0.95, "{}", between);
        }
    }
}
