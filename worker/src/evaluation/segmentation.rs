//! Segmentation figures over label maps: ARI, FG-ARI, mIoU and mBO, by the protocol of the LSD paper.
//!
//! Labels are instance ids; 0 in the truth is the background, which counts in ARI alone, as one more label. mIoU matches slots to objects
//! one to one (Hungarian, on the cosine distance between one-hot masks) and then takes the IoU of each pair; mBO takes for every object
//! the best IoU of any slot. Both are averaged over objects, as the paper does, and over images, as most other work does.

use super::hungarian::assign;
use serde::Serialize;

/// How often each pair of labels occurs, `[truth labels, predicted labels]`.
struct Contingency {
    counts: Vec<u64>,
    columns: usize,
}

impl Contingency {
    fn new(truth: &[u8], predicted: &[u8]) -> Self {
        let size = |labels: &[u8]| labels.iter().max().map_or(0, |&label| usize::from(label) + 1);
        let (rows, columns) = (size(truth), size(predicted));
        let mut counts = vec![0; rows * columns];
        // Neighbouring pixels mostly make the same pair: a run of them is one addition.
        let (mut pair, mut run) = (0, 0);
        for (&truth, &predicted) in truth.iter().zip(predicted) {
            let next = usize::from(truth) * columns + usize::from(predicted);
            if next != pair {
                counts[pair] += run;
                (pair, run) = (next, 0);
            }
            run += 1;
        }
        if run > 0 {
            counts[pair] += run;
        }
        Self { counts, columns }
    }

    fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks(self.columns.max(1))
    }

    fn column_sums(&self) -> Vec<u64> {
        column_sums(&self.rows().collect::<Vec<_>>(), self.columns)
    }
}

fn column_sums(rows: &[&[u64]], columns: usize) -> Vec<u64> {
    (0..columns).map(|column| rows.iter().map(|row| row[column]).sum()).collect()
}

/// The adjusted Rand index of two labellings of the same pixels from these rows of their contingency: 1 when they agree up to names, about
/// 0 by chance. Exact in integers up to the last division.
fn adjusted_rand_index(rows: &[&[u64]], columns: usize) -> f64 {
    let squares = |counts: &mut dyn Iterator<Item = u64>| counts.map(|count| i128::from(count) * i128::from(count)).sum::<i128>();
    let total: i128 = rows.iter().flat_map(|row| row.iter()).map(|&count| i128::from(count)).sum();
    let together = squares(&mut rows.iter().flat_map(|row| row.iter().copied()));
    let truth = squares(&mut rows.iter().map(|row| row.iter().sum()));
    let predicted = squares(&mut column_sums(rows, columns).into_iter());
    let (both, only_truth, only_predicted) = (together - total, truth - together, predicted - together);
    let neither = total * total - truth - predicted + together;
    if only_truth == 0 && only_predicted == 0 {
        return 1.0;
    }
    let expected = (both + only_truth) * (only_truth + neither) + (both + only_predicted) * (only_predicted + neither);
    2.0 * (both * neither - only_truth * only_predicted) as f64 / expected as f64
}

/// The predicted label that stands for each true label 0, 1, ..: one to one, by cosine distance between one-hot masks.
pub fn match_labels(truth: &[u8], predicted: &[u8]) -> Vec<Option<usize>> {
    let table = Contingency::new(truth, predicted);
    let rows: Vec<&[u64]> = table.rows().collect();
    assign(&cosine_distances(&rows, &table.column_sums()), rows.len(), table.columns)
}

/// 1 - |A and B| / sqrt(|A| |B|) for every pair; 1 for empty masks.
fn cosine_distances(rows: &[&[u64]], column_sums: &[u64]) -> Vec<f64> {
    let distance = |both: u64, a: u64, b: u64| if both == 0 { 1.0 } else { 1.0 - both as f64 / (a as f64 * b as f64).sqrt() };
    let row_distances = |row: &&[u64]| {
        let area: u64 = row.iter().sum();
        row.iter().zip(column_sums).map(|(&both, &sum)| distance(both, area, sum)).collect::<Vec<_>>()
    };
    rows.iter().flat_map(row_distances).collect()
}

/// The figures of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFigures {
    /// ARI over all pixels.
    pub ari: f64,
    /// ARI over the pixels of objects; `None` without objects.
    pub foreground_ari: Option<f64>,
    /// The objects that have a pixel, in the order of their labels.
    pub objects: Vec<ObjectFigures>,
}

/// The figures of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectFigures {
    /// Its label in the truth.
    pub label: u8,
    /// The slot matched to it; `None` when no slot is left, or only such that have none of its pixels.
    pub slot: Option<u8>,
    /// The IoU with that slot; 0 without.
    pub matched: f64,
    /// The best IoU of any slot.
    pub best: f64,
}

/// Judges one predicted label map against the truth.
pub fn score(truth: &[u8], predicted: &[u8]) -> ImageFigures {
    let table = Contingency::new(truth, predicted);
    let column_sums = table.column_sums();
    let rows: Vec<&[u64]> = table.rows().collect();
    // Row 0 is the background; labels that occur nowhere are no objects.
    let objects = (0u8..=u8::MAX).zip(&rows).skip(1).filter(|(_, row)| row.iter().any(|&count| count > 0));
    let (labels, objects): (Vec<u8>, Vec<&[u64]>) = objects.map(|(label, row)| (label, *row)).unzip();
    let assignment = assign(&cosine_distances(&objects, &column_sums), objects.len(), table.columns);
    let judge = |((label, row), column): ((u8, &[u64]), Option<usize>)| {
        let area: u64 = row.iter().sum();
        let iou = |column: usize| row[column] as f64 / (area + column_sums[column] - row[column]) as f64;
        let column = column.filter(|&column| row[column] > 0);
        ObjectFigures {
            label,
            slot: column.map(|column| column as u8),
            matched: column.map_or(0.0, iou),
            best: (0..table.columns).map(iou).fold(0.0, f64::max),
        }
    };
    ImageFigures {
        ari: adjusted_rand_index(&rows, table.columns),
        foreground_ari: (!objects.is_empty()).then(|| adjusted_rand_index(&objects, table.columns)),
        objects: labels.into_iter().zip(objects).zip(assignment).map(judge).collect(),
    }
}

/// Sums over images, which add up over workers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums([f64; Self::COUNT]);

impl Sums {
    /// How many numbers they are.
    pub const COUNT: usize = 8;

    /// Adds one image; one without objects counts nowhere.
    pub fn add(&mut self, image: &ImageFigures) {
        let Some(foreground) = image.foreground_ari else { return };
        let objects = image.objects.len() as f64;
        let matched: f64 = image.objects.iter().map(|object| object.matched).sum();
        let best: f64 = image.objects.iter().map(|object| object.best).sum();
        let terms = [1.0, objects, image.ari, foreground, matched, best, matched / objects, best / objects];
        self.0.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }

    /// The sums as numbers, to be added to those of other workers.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// Sums from the numbers of [`Self::as_slice`]; missing ones are 0.
    pub fn from_slice(numbers: &[f64]) -> Self {
        let mut sums = Self::default();
        sums.0.iter_mut().zip(numbers).for_each(|(sum, number)| *sum = *number);
        sums
    }

    /// The means; 0 throughout without images.
    pub fn figures(&self) -> Figures {
        let [images, objects, ari, foreground, matched, best, matched_means, best_means] = self.0;
        let mean = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        Figures {
            images: images as u64,
            objects: objects as u64,
            ari: mean(ari, images),
            fg_ari: mean(foreground, images),
            miou: mean(matched, objects),
            mbo: mean(best, objects),
            miou_over_images: mean(matched_means, images),
            mbo_over_images: mean(best_means, images),
        }
    }
}

/// The figures of a set of images, each between 0 and 1 (ARI and FG-ARI can be below 0), higher is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Images with objects.
    pub images: u64,
    /// Objects in them.
    pub objects: u64,
    /// ARI over all pixels, mean over images.
    pub ari: f64,
    /// FG-ARI, mean over images.
    pub fg_ari: f64,
    /// mIoU, mean over objects (the paper's).
    pub miou: f64,
    /// mBO, mean over objects (the paper's).
    pub mbo: f64,
    /// mIoU, mean over images of the mean over their objects.
    pub miou_over_images: f64,
    /// mBO, mean over images of the mean over their objects.
    pub mbo_over_images: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-8)
    }

    fn matched(figures: &ImageFigures) -> Vec<f64> {
        figures.objects.iter().map(|object| object.matched).collect()
    }

    fn best(figures: &ImageFigures) -> Vec<f64> {
        figures.objects.iter().map(|object| object.best).collect()
    }

    /// Expected values by scikit-learn 1.9.1 and SciPy; `tests/peers/evaluating.py --random` compares many more:
    /// ```python
    /// i = np.arange(60); t = i // 12; p = (i + 9 * (i % 5 == 0)) // 20
    /// adjusted_rand_score(t, p), adjusted_rand_score(t[t > 0], p[t > 0])
    /// T = np.stack([t == k for k in range(1, 5)]).astype(float); P = np.stack([p == k for k in range(4)]).astype(float)
    /// iou = (T @ P.T) / np.maximum(T[:, None], P[None]).sum(-1)
    /// iou[linear_sum_assignment(cosine_distances(T, P))], iou.max(1)
    /// ```
    #[test]
    fn figures_equal_those_of_scikit_learn() {
        let truth: Vec<u8> = (0..60).map(|i| i / 12).collect();
        let predicted: Vec<u8> = (0..60).map(|i| (i + if i % 5 == 0 { 9 } else { 0 }) / 20).collect();
        let figures = score(&truth, &predicted);
        assert!(close(&[figures.ari], &[0.409_363_474_421_055_25]));
        assert!(close(&[figures.foreground_ari.unwrap_or_default()], &[0.340_034_770_204_609_26]));
        assert!(close(&matched(&figures), &[0.291_666_666_67, 0.523_809_523_81, 0.333_333_333_33, 0.083_333_333_33]));
        assert!(close(&best(&figures), &[0.291_666_666_67, 0.523_809_523_81, 0.333_333_333_33, 0.523_809_523_81]));
        let slots: Vec<_> = figures.objects.iter().map(|object| (object.label, object.slot)).collect();
        assert_eq!(slots, [(1, Some(0)), (2, Some(1)), (3, Some(2)), (4, Some(3))]);
    }

    #[test]
    fn averages_over_objects_and_over_images_differ_as_they_should() {
        let object = |matched, best| ObjectFigures { label: 1, slot: None, matched, best };
        let image = |ari, foreground_ari, objects| ImageFigures { ari, foreground_ari, objects };
        let mut sums = Sums::default();
        sums.add(&image(0.5, Some(1.0), vec![object(1.0, 1.0)]));
        sums.add(&image(0.25, Some(0.5), vec![object(0.0, 0.0), object(0.0, 0.3), object(0.3, 0.3)]));
        sums.add(&image(1.0, None, vec![]));
        let figures = Sums::from_slice(sums.as_slice()).figures();
        assert_eq!((figures.images, figures.objects, figures.ari, figures.fg_ari), (2, 4, 0.375, 0.75));
        assert!(close(&[figures.miou, figures.mbo], &[0.325, 0.4]));
        assert!(close(&[figures.miou_over_images, figures.mbo_over_images], &[0.55, 0.6]));
    }

    #[test]
    fn images_without_objects_and_images_with_too_few_slots_are_judged() {
        assert_eq!(score(&[0, 0], &[1, 2]), ImageFigures { ari: 0.0, foreground_ari: None, objects: vec![] });
        let figures = score(&[1, 1, 1, 2, 2, 0], &[0, 0, 0, 0, 0, 0]);
        assert!(close(&matched(&figures), &[0.5, 0.0]) && close(&best(&figures), &[0.5, 1.0 / 3.0]));
        assert_eq!(figures.foreground_ari, Some(0.0));
        assert_eq!(figures.objects[1].slot, None);
        // Two slots for two objects, but slot 1 has nothing of object 1, and slot 0 is worth more to object 2.
        let figures = score(&[1, 2, 2, 2, 0], &[0, 0, 0, 0, 1]);
        assert_eq!(figures.objects.iter().map(|object| object.slot).collect::<Vec<_>>(), [None, Some(0)]);
    }

    /// A label map of a few hundred pixels.
    fn labels(count: u8) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..count, 400)
    }

    proptest! {
        #[test]
        fn names_of_slots_do_not_matter(truth in labels(5), predicted in labels(7), names in Just((0u8..7).collect::<Vec<_>>()).prop_shuffle()) {
            let renamed: Vec<u8> = predicted.iter().map(|&label| names[usize::from(label)]).collect();
            let (a, b) = (score(&truth, &predicted), score(&truth, &renamed));
            prop_assert_eq!((a.ari, a.foreground_ari), (b.ari, b.foreground_ari));
            prop_assert!(close(&best(&a), &best(&b)));
            prop_assert!((matched(&a).iter().sum::<f64>() - matched(&b).iter().sum::<f64>()).abs() < 0.05);
        }

        #[test]
        fn the_truth_is_perfect_and_chance_is_worth_nothing(truth in labels(5), predicted in labels(7)) {
            let perfect = score(&truth, &truth);
            prop_assert_eq!((perfect.ari, perfect.foreground_ari), (1.0, Some(1.0)));
            prop_assert!(perfect.objects.iter().all(|o| o.matched == 1.0 && o.best == 1.0 && o.slot == Some(o.label)));
            prop_assert!(score(&truth, &predicted).ari.abs() < 0.05);
        }

        #[test]
        fn no_match_is_better_than_the_best(truth in labels(6), predicted in labels(4)) {
            prop_assert!(score(&truth, &predicted).objects.iter().all(|object| object.matched <= object.best));
        }
    }
}
