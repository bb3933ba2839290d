//! Axes: which values an axis spans, whether it is linear or logarithmic, and where its ticks are.

use crate::coordinator::significant;

/// From this ratio of the highest value to the lowest on, an axis is logarithmic where that is wanted at all.
const LOGARITHMIC_FROM: f64 = 8.0;
/// Ticks that an axis has at most.
const TICKS: usize = 6;

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    pub(super) logarithmic: bool,
}

impl Scale {
    /// From the lowest value to the highest. Figures that halve again and again are told apart on a logarithmic axis only.
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone, may_be_logarithmic: bool) -> Self {
        let (low, high) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
        if may_be_logarithmic && low > 0.0 && high / low >= LOGARITHMIC_FROM {
            return Self { low: low / 1.05, high: high * 1.05, logarithmic: true };
        }
        Self::linear(low, high)
    }

    /// The same for figures of which the distance from nothing matters.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        Self::linear(0.0, values.fold(0.0, f64::max) * 1.05)
    }

    /// From one value to another.
    pub(super) fn linear(low: f64, high: f64) -> Self {
        if high > low {
            return Self { low, high, logarithmic: false };
        }
        let around = if low.is_finite() { low } else { 0.0 };
        let margin = if around == 0.0 { 1.0 } else { 0.5 * around.abs() };
        Self { low: around - margin, high: around + margin, logarithmic: false }
    }

    /// Where a value lies, from 0 at the lowest to 1 at the highest.
    pub(super) fn place(self, value: f64) -> f64 {
        let (low, high, value) =
            if self.logarithmic { (self.low.ln(), self.high.ln(), value.max(self.low).ln()) } else { (self.low, self.high, value) };
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Round values on the axis, ascending.
    pub(super) fn ticks(self) -> Vec<f64> {
        if !self.logarithmic {
            return self.linear_ticks();
        }
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let all = |digits: &[f64]| {
            let ticks = decades.clone().flat_map(|decade| digits.iter().map(move |digit| digit * 10_f64.powi(decade)));
            ticks.filter(|tick| (self.low..=self.high).contains(tick)).collect::<Vec<f64>>()
        };
        let choices: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let ticks = choices.map(all).into_iter().find(|ticks| ticks.len() <= TICKS).unwrap_or_else(|| all(&[1.0]));
        ticks.iter().step_by(ticks.len().div_ceil(TICKS).max(1)).copied().collect()
    }

    fn linear_ticks(self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS as f64;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

/// The label of a tick, as short as it can be: `0.002`, `1.2e-5`, `20k`.
pub(super) fn label(tick: f64) -> String {
    let (value, unit) = match tick.abs() {
        1e9.. => (tick / 1e9, "G"),
        1e6.. => (tick / 1e6, "M"),
        1e4.. => (tick / 1e3, "k"),
        _ => (tick, ""),
    };
    let text = significant(value);
    // 1.000e-5 is 1e-5.
    let text = match text.split_once('e') {
        Some((digits, power)) => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    };
    text + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_few_and_within_the_axis() {
        let labels = |scale: Scale| scale.ticks().into_iter().map(label).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(Scale::linear(1.0, 3000.0)), "500 1000 1500 2000 2500 3000");
        assert_eq!(labels(Scale::linear(0.0, 250_000.0)), "0 50k 100k 150k 200k 250k");
        assert_eq!(labels(Scale::from_zero([1e-4, 2e-5].into_iter())), "0 2e-5 4e-5 6e-5 8e-5 0.0001");
        assert_eq!(labels(Scale::of([0.02, 1.1].into_iter(), true)), "0.02 0.05 0.1 0.2 0.5 1");
        assert_eq!(labels(Scale::of([1e-6, 1e9].into_iter(), true)), "1e-6 0.001 1 1000 1M 1G");
        for scale in [Scale::of([7.0].into_iter(), true), Scale::linear(-1e-30, 1e30), Scale::of([].into_iter(), true)] {
            let ticks = scale.ticks();
            assert!((2..=TICKS + 1).contains(&ticks.len()), "{scale:?}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (scale.low..=scale.high).contains(tick)), "{scale:?}: {ticks:?}");
        }
    }

    #[test]
    fn only_figures_that_span_much_are_on_a_logarithmic_axis() {
        assert!(Scale::of([0.1, 1.0].into_iter(), true).logarithmic);
        let linear = [(vec![0.5, 1.0], true), (vec![0.0, 1.0], true), (vec![-1.0, 1.0], true), (vec![0.1, 1.0], false)];
        for (values, wanted) in linear {
            assert!(!Scale::of(values.iter().copied(), wanted).logarithmic, "{values:?}");
        }
        let scale = Scale::of([0.01, 1.0].into_iter(), true);
        assert!((scale.place(0.1) - 0.5).abs() < 1e-9);
        assert_eq!((scale.place(-1.0), scale.place(5.0)), (0.0, 1.0));
    }
}
