//! Probes on planted labels.

use super::*;
use common::config::{HoldOut, ProbeConfig};
use common::shards::{LabelKind, ObjectLabel};
use proptest::prelude::*;
use std::collections::BTreeSet;
use tch::{Device, Kind, Tensor};

const SIZE: i64 = 16;

/// Slots of `objects` objects.
fn slots(objects: i64, seed: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn([objects, SIZE], (Kind::Float, Device::Cpu))
}

fn target(name: &str, classes: Option<usize>, rows: &Tensor) -> Target {
    let kind = classes.map_or(LabelKind::Figures, |classes| LabelKind::Category(vec![String::new(); classes]));
    let label = ObjectLabel { name: name.into(), kind, column: name.into(), objects: 1, figures: 0..1 };
    Target::new(&label, &rows.to_kind(Kind::Float))
}

/// The class of each object is the largest of its first channels.
fn separable(slots: &Tensor, classes: i64) -> Tensor {
    slots.narrow(1, 0, classes).argmax(1, true)
}

fn recipe(steps: u64) -> ProbeConfig {
    ProbeConfig { steps, learning_rate: 1e-2, ..ProbeConfig::default() }
}

/// What probes that have learned from the first 600 of 800 objects say about the others, and the targets of those.
fn learn(slots: &Tensor, targets: &[Target], steps: u64) -> (Vec<Tensor>, Vec<Target>) {
    let part = |start: i64, end: i64| {
        let objects = Tensor::arange_start(start, end, (Kind::Int64, Device::Cpu));
        let targets: Vec<Target> = targets.iter().map(|target| target.select(&objects, Device::Cpu)).collect();
        (slots.index_select(0, &objects), targets)
    };
    let ((seen, targets), (held_out, right)) = (part(0, 600), part(600, 800));
    let probe = Probe::new(&targets, SIZE, 3, Device::Cpu).unwrap();
    probe.train(&seen, &targets, &recipe(steps), |_, _| {}).unwrap();
    (probe.predict(&held_out), right)
}

#[test]
fn planted_labels_are_found_and_random_ones_are_not() {
    let mut slots = slots(800, 1);
    let shape = separable(&slots, 3);
    // So that a line has room between the classes.
    let _ = slots.scatter_add_(1, &shape, &Tensor::full([800, 1], 2.0, (Kind::Float, Device::Cpu)));
    let position = Tensor::cat(&[slots.narrow(1, 3, 1).tanh() * 40.0 + 7.0, (slots.narrow(1, 4, 2) * 0.7).sin()], 1);
    let noise = Tensor::randint(4, [800, 1], (Kind::Int64, Device::Cpu));
    // Every tenth position is not known, nor is every tenth shape.
    let unknown = Tensor::arange(800, (Kind::Int64, Device::Cpu)).remainder(10).eq(0).unsqueeze(1);
    let targets = [
        target("shape", Some(3), &shape.masked_fill(&unknown, -1)),
        target("position", None, &position.masked_fill(&unknown, f64::NAN)),
        target("noise", Some(4), &noise),
    ];
    let (said, right) = learn(&slots, &targets, 600);
    let readings: Vec<Reading> = right.iter().zip(&said).map(|(right, said)| judge(right, said)).collect();
    let [
        Reading::Category { accuracy: shape },
        Reading::Figures { mse, mse_unscaled, r2: Some(r2) },
        Reading::Category { accuracy: chance },
    ] = readings[..]
    else {
        panic!("{readings:?}")
    };
    assert!(shape > 0.99, "{shape}");
    assert!(r2 > 0.95 && mse < 0.02 && mse_unscaled > 10.0 * mse, "{r2} {mse} {mse_unscaled}");
    // 50 of 200, with a standard deviation of 6.
    assert!((0.1..0.4).contains(&chance), "{chance}");
    assert_eq!(judge(&right[1], &right_values(&right[1])), Reading::Figures { mse: 0.0, mse_unscaled: 0.0, r2: Some(1.0) });
    assert!(chart(&right[0], &said[0], "a").unwrap() != chart(&right[1], &said[1], "a").unwrap());
}

fn right_values(target: &Target) -> Tensor {
    let Answer::Figures { values, .. } = &target.answer else { panic!("{target:?}") };
    values.shallow_clone()
}

#[test]
fn a_guess_that_never_looks_is_the_most_frequent_class_and_the_mean() {
    let codes = target("code", Some(3), &Tensor::from_slice(&[2.0_f32, 2.0, 1.0, -1.0]).unsqueeze(1));
    let Reading::Category { accuracy } = judge(&codes, &constant(&codes, 4)) else { panic!() };
    assert!((accuracy - 2.0 / 3.0).abs() < 1e-12, "{accuracy}");
    let figures = target("figure", None, &Tensor::from_slice(&[0.0_f32, 5.0, 4.0, 5.0, f32::NAN, 5.0]).view([3, 2]));
    let Reading::Figures { mse, mse_unscaled, r2 } = judge(&figures, &constant(&figures, 3)) else { panic!() };
    // -1 and 1 are both 1 from their mean, 2 in the data set's own units; the figure that never changes is always right.
    assert_eq!((mse, mse_unscaled, r2), (0.5, 2.0, Some(0.0)));
}

#[test]
fn several_labels_at_once_are_learned_as_each_alone() {
    let slots = slots(800, 2);
    let both = || [target("shape", Some(5), &separable(&slots, 5)), target("position", None, &slots.narrow(1, 2, 2).square())];
    let (together, _) = learn(&slots, &both(), 60);
    for (index, target) in both().into_iter().enumerate() {
        let (alone, _) = learn(&slots, &[target], 60);
        let difference = (&alone[0] - &together[index]).abs().max().double_value(&[]);
        assert!(difference < 1e-3, "label {index}: {difference}");
    }
}

proptest! {
    #[test]
    fn held_out_images_are_on_no_other_side(mut images in prop::collection::vec(0_u64..50, 120..200), seed: u64) {
        images.sort_unstable();
        for hold_out in [HoldOut::Images, HoldOut::Objects] {
            let (learned_from, held_out) = split(&images, 50, hold_out, seed);
            let all: BTreeSet<i64> = learned_from.iter().chain(&held_out).copied().collect();
            prop_assert_eq!(all.len(), images.len());
            prop_assert_eq!(learned_from.len() + held_out.len(), images.len());
            prop_assert!(learned_from.len() > held_out.len() && !held_out.is_empty());
            if hold_out == HoldOut::Images {
                prop_assert!(learned_from.iter().all(|a| held_out.iter().all(|b| images[*a as usize] < images[*b as usize])));
            } else {
                prop_assert_eq!(learned_from.len(), images.len() * 83 / 100);
            }
        }
    }
}
