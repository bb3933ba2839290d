//! The number of workers decides how fast a run goes, not where it goes.

use crate::lab::Lab;
use crate::records::series;

/// What rounding may do to a figure over the small experiment's steps, relative to it: sums in another order, amplified by AdamW's
/// normalisation. Two seeds differ by more than a hundred times as much.
const TOLERANCE: f64 = 1e-3;

const FIGURES: [&str; 2] = ["loss", "grad_norm"];

fn trajectory(settings: &[&str]) -> Vec<f64> {
    let lab = Lab::prepared();
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    lab.launch(&arguments).expect_success();
    FIGURES.iter().flat_map(|figure| series(&lab.run(), figure)).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max)
}

#[test]
fn one_worker_and_two_workers_follow_the_same_trajectory() {
    let together = trajectory(&["cluster.workers_per_node=2"]);
    assert_eq!(together.len(), 2 * 40, "a record per step");
    let alone = trajectory(&["cluster.workers_per_node=1"]);
    let difference = largest_difference(&alone, &together);
    assert!(difference < TOLERANCE, "they differ by {difference}");
    let stranger = trajectory(&["cluster.workers_per_node=1", "run.seed=8"]);
    assert!(largest_difference(&alone, &stranger) > 100.0 * TOLERANCE, "any two runs would agree this well");
}
