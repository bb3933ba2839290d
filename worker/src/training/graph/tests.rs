//! Steps as graphs beside the same steps without, on the CPU: a stand-in keeps the work and does it again on the same inputs.
#![allow(clippy::unwrap_used)]

use super::{Graphs, Kept, StepGraph, Trial, WARM_UP, Work};
use crate::collectives::{Collective, Communicator, InProcess, Solo};
use crate::data::{Batch, Loader, Slice, open_split};
use crate::training::detours::Detours;
use crate::training::laps::{Lap, Laps};
use crate::training::reduction::Reducer;
use crate::training::step::{StepError, StepRecipe, TrainingState, Wishes};
use crate::training::step_tests::fresh_state;
use crate::training::tests::Lab;
use common::config::Config;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Device, Kind, Tensor, no_grad};

const STEPS: u64 = 20;

/// What the stand-in does not do. Captures and launches are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// The capture ends, and there is no graph.
    NoGraph(u64),
    /// libtorch refuses an operation within the capture.
    Panic(u64),
    /// The graph cannot be launched.
    NoLaunch(u64),
    /// Somebody has not survived sums within graphs.
    Wary,
}

/// Does work again, and keeps to what a device does: nothing is done at the capture, and a result stays in its place.
struct Recorder {
    trouble: Trouble,
    state: Vec<Tensor>,
    reduced: Tensor,
    variable: Tensor,
    captures: u64,
    launches: u64,
    replays: Arc<AtomicU64>,
}

impl Recorder {
    fn new(state: &TrainingState, trouble: Trouble, replays: Arc<AtomicU64>) -> Self {
        let parameters = &state.parameters;
        let variable = parameters.variables().last().unwrap().shallow_clone();
        Self {
            trouble,
            state: state.flat(),
            reduced: parameters.reduced().shallow_clone(),
            variable,
            captures: 0,
            launches: 0,
            replays,
        }
    }

    fn work(&mut self, work: Work) -> Result<Tensor, StepError> {
        if self.trouble != Trouble::Panic(self.captures) {
            return work();
        }
        let home = self.variable.detach();
        self.variable.set_data(&Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu)));
        let result = work();
        self.variable.set_data(&home);
        result
    }
}

impl Graphs for Recorder {
    type Graph = ();

    fn capture(&mut self, work: Work) -> Result<Kept<()>, StepError> {
        let before: Vec<Tensor> = self.state.iter().map(Tensor::copy).collect();
        let result = self.work(work);
        no_grad(|| self.state.iter_mut().zip(&before).for_each(|(now, before)| now.copy_(before)));
        let _ = self.reduced.fill_(f64::NAN);
        let refused = self.trouble == Trouble::NoGraph(self.captures);
        self.captures += 1;
        let mut result = result?;
        let _ = result.fill_(f64::NAN);
        if refused { Err(StepError::Libtorch("not today".into())) } else { Ok(Kept { graph: (), result }) }
    }

    fn replay(&mut self, kept: &mut Kept<()>, work: Work) -> Result<(), StepError> {
        self.launches += 1;
        if self.trouble == Trouble::NoLaunch(self.launches - 1) {
            return Err(StepError::Libtorch("not now".into()));
        }
        let result = work()?;
        kept.result.copy_(&result);
        self.replays.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// All bits of some tensors, of which none is wider than f64.
fn bits(tensors: &[Tensor]) -> Vec<u64> {
    let numbers = tensors.iter().flat_map(|tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap());
    numbers.map(f64::to_bits).collect()
}

/// What a run leaves: the outcome of every step, then the weights and all that goes with them.
#[derive(PartialEq)]
struct Left {
    outcomes: Vec<Vec<u64>>,
    state: Vec<u64>,
    replays: u64,
}

impl Left {
    /// That graphs have changed nothing.
    fn assert_same(&self, expected: &Self, what: &str) {
        for (step, (found, expected)) in self.outcomes.iter().zip(&expected.outcomes).enumerate() {
            assert!(found == expected, "{what}: the outcome of step {step}");
        }
        assert!(self.state == expected.state && self.outcomes.len() as u64 == STEPS, "{what}: the state at the end");
    }
}

/// A run of [`STEPS`] steps, by graphs if there is a `trouble` with them. `before` may change a step's batch, start laps, and so on.
fn run(
    (lab, config): (&Lab, &Config),
    backend: impl Collective + 'static,
    trouble: Option<Trouble>,
    before: &(dyn Fn(&TrainingState, &mut Batch, &mut Laps) + Sync),
) -> Left {
    let communicator = Communicator::start(move || Ok(Box::new(backend)), Device::Cpu, Arc::default()).unwrap();
    let slice = Slice { global_batch: config.train.global_batch, rank: communicator.rank(), world: communicator.world() };
    let dataset = open_split(lab.runtime.handle(), &config.data, &config.data.latents, "train").unwrap();
    let mut loader = Loader::start(config, "", dataset, slice, 0..STEPS, &Detours::default(), lab.runtime.handle()).unwrap();
    let mut state = fresh_state(config, Kind::Float);
    let reducer = Reducer::new(&state.parameters, &communicator, &config.train.reduction).unwrap();
    let replays = Arc::<AtomicU64>::default();
    let graphs = trouble.map(|trouble| Recorder::new(&state, trouble, replays.clone()));
    let file = lab.path(if trouble == Some(Trouble::Wary) { "wary" } else { "trial" }).with_extension(slice.rank.to_string());
    if trouble == Some(Trouble::Wary) {
        std::fs::write(&file, "").unwrap();
    }
    let mut steps = StepGraph::new(StepRecipe::new(config, 1.5, Device::Cpu), graphs, Trial::new(Some(file.clone())));
    let (mut laps, mut outcomes) = (Laps::default(), Vec::new());
    while let Some(mut batch) = loader.next_batch().unwrap() {
        before(&state, &mut batch, &mut laps);
        let wishes = Wishes { stop: batch.step == 7, save: batch.step % 3 == slice.rank as u64, busy: batch.step > 11 };
        let (values, before) = (state.parameters.values().shallow_clone(), state.parameters.values().copy());
        let gradients = state.parameters.reduced().shallow_clone();
        let _ = gradients.shallow_clone().fill_(f64::INFINITY);
        // As while a checkpoint is copied: the gradients are there, and the weights are as before.
        let hold = || assert!(values == before && gradients.narrow(0, 0, 100).isinf().all().int64_value(&[]) == 0);
        let outcome = steps.run(&mut state, &batch, wishes, &reducer, &mut laps, hold).unwrap();
        outcomes.push([outcome.loss, outcome.grad_norm, outcome.wishes, outcome.attention]);
    }
    assert_eq!(file.exists(), trouble == Some(Trouble::Wary), "a trial is over after some steps");
    let outcomes = outcomes.iter().map(|outcome| bits(outcome)).collect();
    Left { outcomes, state: bits(&state.flat()), replays: replays.load(Ordering::Relaxed) }
}

/// The same by every worker of a world, of which rank 1 alone has the trouble.
fn run_together(world: usize, of: (&Lab, &Config), trouble: Option<Trouble>) -> Vec<Left> {
    std::thread::scope(|scope| {
        let ends = InProcess::world(world).into_iter().enumerate();
        let own = |rank| trouble.map(|trouble| if rank == 1 { trouble } else { Trouble::None });
        let workers: Vec<_> = ends.map(|(rank, end)| scope.spawn(move || run(of, end, own(rank), &nothing))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

fn nothing(_state: &TrainingState, _batch: &mut Batch, _laps: &mut Laps) {}

/// Learning rates in warm-up and decay, a moving average, micro batches of unequal size, dropped slots.
const EVERYTHING: [&str; 8] = [
    "train.steps=20",
    "train.global_batch=8",
    "train.micro_batch=3",
    "train.slot_dropout=0.3",
    "diffusion.offset_noise=0.1",
    "diffusion.snr_gamma=5",
    "train.reduction.first_bucket_mib=0.002",
    "train.reduction.bucket_mib=0.01",
];
/// Two graphs in every step after the warm-up.
const ALL: u64 = 2 * (STEPS - WARM_UP);

/// In f32: of bf16, oneDNN gives now and then other bits while other tests run.
#[test]
fn graphs_take_the_very_same_steps() {
    let lab = Lab::new();
    let spoil = |_: &TrainingState, batch: &mut Batch, _: &mut Laps| {
        if batch.step == 9 {
            batch.moments = batch.moments.full_like(f64::INFINITY);
        }
    };
    let variants: [&[&str]; 4] = [
        &["train.not_finite=skip"],
        &["train.clip_norm=0", "train.ema_decay=0"],
        &["model.unet.gradient_checkpointing=true"],
        &["train.micro_batch=8", "train.slot_dropout=0", "train.decay=constant"],
    ];
    for (index, variant) in variants.into_iter().enumerate() {
        let config = lab.config(&[&EVERYTHING, variant].concat());
        let before: &(dyn Fn(&TrainingState, &mut Batch, &mut Laps) + Sync) = if index == 0 { &spoil } else { &nothing };
        let expected = run((&lab, &config), Solo, None, before);
        let found = run((&lab, &config), Solo, Some(Trouble::None), before);
        found.assert_same(&expected, &format!("{variant:?}"));
        assert_eq!((found.replays, expected.replays), (ALL, 0));
        let skipped = expected.outcomes[9][0];
        assert_eq!(f64::from_bits(skipped).is_finite(), index > 0, "the spoiled step");
    }
}

/// Whatever is refused is done without a graph, and nothing else changes.
#[test]
fn a_refusal_costs_the_graph_and_no_number() {
    let lab = Lab::new();
    let config = lab.config(&EVERYTHING);
    let expected = run((&lab, &config), Solo, None, &nothing);
    let half = ALL / 2;
    let troubles = [
        (Trouble::NoGraph(0), 0),
        (Trouble::Panic(0), 0),
        // The update alone.
        (Trouble::NoGraph(1), half),
        // The third step as graphs: its gradients, its update.
        (Trouble::NoLaunch(4), 4),
        (Trouble::NoLaunch(5), 5 + half - 3),
    ];
    for (trouble, replays) in troubles {
        let found = run((&lab, &config), Solo, Some(trouble), &nothing);
        found.assert_same(&expected, &format!("{trouble:?}"));
        assert_eq!(found.replays, replays, "{trouble:?}");
    }
}

/// A step that is not the one that was captured is taken without a graph; the next one with it again.
#[test]
fn other_shapes_and_a_profile_are_no_business_of_graphs() {
    let lab = Lab::new();
    let config = lab.config(&EVERYTHING);
    let before = |state: &TrainingState, batch: &mut Batch, laps: &mut Laps| {
        match batch.step {
            9 => *batch = batch.part(&(0..5)),
            // As after going back to a checkpoint: other weights in the same place.
            11 => drop(no_grad(|| state.parameters.values().shallow_clone().g_mul_scalar_(0.5))),
            14 => laps.start(Lap::Data, Device::Cpu),
            16 => drop(laps.stop()),
            _ => {}
        }
    };
    let expected = run((&lab, &config), Solo, None, &before);
    let found = run((&lab, &config), Solo, Some(Trouble::None), &before);
    found.assert_same(&expected, "shapes, weights, laps");
    assert_eq!(found.replays, ALL - 2 * 3);
}

/// Three workers share 8 images unevenly. Rank 1 decides for all whether the sums are part of the graph.
#[test]
fn workers_agree_whether_their_sums_are_part_of_the_graph() {
    let lab = Lab::new();
    let config = lab.config(&[&EVERYTHING[..], &["train.micro_batch=2"]].concat());
    let expected = run_together(3, (&lab, &config), None);
    // Captures are of the gradients, of the gradients with their sums, and of the update.
    let troubles = [
        (Trouble::None, [ALL; 3]),
        (Trouble::NoGraph(0), [ALL, 0, ALL]),
        (Trouble::NoGraph(1), [ALL; 3]),
        (Trouble::NoGraph(2), [ALL, ALL / 2, ALL]),
        (Trouble::Wary, [ALL; 3]),
    ];
    for (trouble, replays) in troubles {
        let found = run_together(3, (&lab, &config), Some(trouble));
        for (rank, (found, expected)) in found.iter().zip(&expected).enumerate() {
            found.assert_same(expected, &format!("{trouble:?}, rank {rank}"));
            assert_eq!(found.replays, replays[rank], "{trouble:?}, rank {rank}");
        }
    }
}
