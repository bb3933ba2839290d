//! A figure over the steps of a run, as it counts in the end: steps that were done again after a restart replace those before.

use super::{HeldOut, Record};

/// Points of one figure in the order of their steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Curve {
    points: Vec<(u64, f64)>,
}

impl Curve {
    /// The curve of one figure of the records of steps.
    pub(crate) fn of(records: &[Record], figure: impl Fn(&Record) -> Option<f64>) -> Self {
        Self::through(records.iter().filter(|record| !record.is_of_evaluation()), figure)
    }

    /// The curve of one figure of the records of evaluations.
    pub(crate) fn held_out(records: &[Record], figure: impl Fn(&HeldOut) -> Option<f64>) -> Self {
        Self::through(records.iter().filter(|record| record.is_of_evaluation()), |record| figure(&record.held_out))
    }

    fn through<'a>(records: impl Iterator<Item = &'a Record>, figure: impl Fn(&Record) -> Option<f64>) -> Self {
        let mut curve = Self::default();
        for record in records {
            while curve.points.last().is_some_and(|(step, _)| *step >= record.step) {
                curve.points.pop();
            }
            curve.points.extend(figure(record).filter(|value| value.is_finite()).map(|value| (record.step, value)));
        }
        curve
    }

    /// At most `count` points (2 or more), each the mean of its neighbours, as `(step, value)`.
    pub(crate) fn thinned(&self, count: usize) -> Vec<(f64, f64)> {
        let size = self.points.len().div_ceil(count.max(2)).max(1);
        let mean = |chunk: &[(u64, f64)]| {
            let sum = chunk.iter().fold((0.0, 0.0), |sum, (step, value)| (sum.0 + *step as f64, sum.1 + value));
            (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
        };
        self.points.chunks(size).map(mean).collect()
    }

    /// The outline of the curve as a drawing of so many columns shows it: of each column of steps at most the first, the lowest, the
    /// highest and the last point, so that no spike is lost and a long run is no larger than a short one.
    pub(crate) fn outlined(&self, columns: usize) -> Vec<(u64, f64)> {
        let (Some((from, _)), Some((to, _))) = (self.points.first(), self.points.last()) else { return Vec::new() };
        let width = (to - from) / columns.max(1) as u64 + 1;
        let columns = self.points.chunk_by(|(a, _), (b, _)| (a - from) / width == (b - from) / width);
        let corners = |column: &[(u64, f64)]| {
            let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
            let (low, high) = (column.iter().min_by(by_value), column.iter().max_by(by_value));
            let mut corners: Vec<(u64, f64)> = [column.first(), low, high, column.last()].into_iter().flatten().copied().collect();
            corners.sort_by_key(|(step, _)| *step);
            corners.dedup();
            corners
        };
        columns.flat_map(corners).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_done_again_replace_those_before() {
        let record = |step, generation, loss| Record { step, generation, loss, ..Record::default() };
        let records = [
            record(10, 1, Some(4.0)),
            record(20, 1, Some(3.0)),
            record(30, 1, Some(9.0)),
            record(20, 2, Some(2.0)),
            record(30, 2, None),
        ];
        let curve = Curve::of(&records, |record| record.loss);
        assert_eq!(curve.thinned(10), [(10.0, 4.0), (20.0, 2.0)]);
        assert_eq!(Curve::of(&records[..3], |record| record.loss).thinned(2), [(15.0, 3.5), (30.0, 9.0)]);
        assert_eq!(Curve::default().thinned(2), []);
    }

    #[test]
    fn steps_and_evaluations_have_curves_of_their_own() {
        let step = |step, loss| Record { step, loss: Some(loss), ..Record::default() };
        let evaluation = |step, loss| Record {
            step,
            held_out: HeldOut { seconds: Some(0.1), loss: Some(loss), ..HeldOut::default() },
            ..Record::default()
        };
        let records = [step(1, 4.0), step(2, 3.0), evaluation(2, 5.0), step(3, 2.0), evaluation(4, 6.0), evaluation(2, 5.5)];
        assert_eq!(Curve::of(&records, |record| record.loss).points, [(1, 4.0), (2, 3.0), (3, 2.0)]);
        assert_eq!(Curve::held_out(&records, |figures| figures.loss).points, [(2, 5.5)], "the last one was done again");
    }

    #[test]
    fn an_outline_is_small_and_keeps_every_spike() {
        let spiked = |step| {
            if step == 70_001 {
                99.0
            } else if step == 50_003 {
                -3.0
            } else {
                (step as f64).sin()
            }
        };
        let curve = Curve { points: (1..=100_000).map(|step| (step, spiked(step))).collect() };
        let outline = curve.outlined(200);
        assert!((200..=800).contains(&outline.len()), "{}", outline.len());
        assert!(outline.contains(&(70_001, 99.0)) && outline.contains(&(50_003, -3.0)));
        assert!(outline.is_sorted_by_key(|(step, _)| *step));
        assert_eq!((outline[0].0, outline[outline.len() - 1].0), (1, 100_000));
        let short = Curve { points: vec![(3, 1.0)] };
        assert_eq!((short.outlined(200), Curve::default().outlined(200)), (vec![(3, 1.0)], Vec::new()));
    }
}
