//! Saving and loading training states by worlds of every size, as threads of one process.
#![allow(clippy::unwrap_used)]

use super::parts::{Part, assign, parts};
use super::writer::attempt_number;
use super::{Identity, Judgement, Restorer, SaveTo, Saver};
use crate::collectives::{Collective, Communicator, InProcess};
use crate::jobs::Reporter;
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::training::detours::Detours;
use crate::training::step::TrainingState;
use common::checkpoint::CheckpointStore;
use common::config::{Config, load};
use common::storage::Store;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor, no_grad};
use tokio::runtime::Runtime;

const CONFIG: &str = include_str!("../training/tests.toml");

fn config(overrides: &[&str]) -> Config {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).chain(["data.latents=none".into()]).collect();
    load::from_str(CONFIG, "tests.toml", &overrides).unwrap()
}

/// A state, every number of whose flat tensors follows from `seed`; without a random generator, which all threads would share.
fn state(config: &Config, seed: i64) -> TrainingState {
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(config), Initial::Seed(1), Device::Cpu);
    let state = TrainingState::new(model, config).unwrap();
    for (index, flat) in state.flat().into_iter().enumerate() {
        // What lies between the variables for alignment is zero in every state.
        for entry in state.parameters.entries() {
            let mut view = entry.view(&flat);
            let count = Tensor::arange(view.numel() as i64, (Kind::Double, Device::Cpu));
            let values = (count * 0.37 + (seed * 10 + index as i64) as f64).sin();
            no_grad(|| view.copy_(&values.to_kind(Kind::Float).view_as(&view)));
        }
    }
    state
}

fn bits(state: &TrainingState) -> Vec<Vec<u32>> {
    let bits = |flat: &Tensor| Vec::<f32>::try_from(flat.to_kind(Kind::Float)).unwrap().into_iter().map(f32::to_bits).collect();
    state.flat().iter().map(bits).collect()
}

fn stores(folders: &[&Path]) -> Vec<CheckpointStore> {
    folders.iter().map(|folder| CheckpointStore::new(Store::open(folder.to_str().unwrap()).unwrap())).collect()
}

/// What every worker of a world of `world` does, each in a thread.
fn together<T: Send>(world: usize, work: impl Fn(usize, &mut Communicator) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = InProcess::world(world)
            .into_iter()
            .enumerate()
            .map(|(rank, end)| {
                let work = &work;
                scope.spawn(move || {
                    let mut all = Communicator::start(move || Ok(Box::new(end)), Device::Cpu, Arc::default()).unwrap();
                    work(rank, &mut all)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Has `world` workers save their shares of the state of `seed` as that after `step` steps. Returns what each of them hears.
fn save(config: &Config, folders: &[&Path], world: usize, seed: i64, step: u64, runtime: &Runtime) -> Vec<Result<(), String>> {
    together(world, |rank, _| {
        let identity = Identity::new(config, "none", 1.0, 1, world);
        let to = SaveTo { stores: stores(folders), identity, nonce: 77 + step, place: (rank, world) };
        let state = state(config, seed);
        let (handle, reporter) = (runtime.handle().clone(), Reporter::log_only());
        let mut saver = Saver::start(to, &state, &config.checkpoint, Device::Cpu, handle, reporter).unwrap();
        saver.save(&state, step, &Detours::default(), Judgement::Known(None)).unwrap();
        saver.finish().map_err(|error| error.to_string())
    })
}

/// The step and the bits of the state that each of `world` workers is brought to.
fn restore(config: &Config, folders: &[&Path], world: usize, runtime: &Runtime) -> Vec<(u64, Vec<Vec<u32>>)> {
    together(world, |rank, all| {
        let identity = Identity::new(config, "none", 1.0, 2, world);
        let restorer = Restorer::new(stores(folders), identity, runtime.handle().clone());
        let state = state(config, 1000 + rank as i64);
        let restored = restorer.restore(&state, all).unwrap();
        (restored.step, bits(&state))
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Weights, average and both moments come back bit by bit on every worker, whoever has saved them.
#[test]
fn a_state_comes_back_bit_by_bit_in_a_world_of_any_size() {
    let (config, runtime) = (config(&["train.ema_decay=0.9"]), runtime());
    let folder = tempfile::tempdir().unwrap();
    for (index, saved_by) in [1, 2, 3, 5].into_iter().enumerate() {
        let (seed, step) = (index as i64, 10 + index as u64);
        let expected = bits(&state(&config, seed));
        assert_eq!(expected.len(), 4);
        assert!(save(&config, &[folder.path()], saved_by, seed, step, &runtime).iter().all(Result::is_ok));
        for restored_by in [1, 2, 3, 4] {
            for found in restore(&config, &[folder.path()], restored_by, &runtime) {
                assert!(found == (step, expected.clone()), "saved by {saved_by}, restored by {restored_by}");
            }
        }
    }
}

/// One place is full or gone (a file where its folder should be): the other has the checkpoint, training hears nothing of it, and what is
/// missing is caught up on at the end, or complained of.
#[test]
fn a_checkpoint_that_one_place_refuses_is_saved_in_the_other() {
    let (config, runtime) = (config(&[]), runtime());
    for broken in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let places = [folder.path().join("first"), folder.path().join("second")];
        let folders = [places[0].as_path(), places[1].as_path()];
        assert!(save(&config, &folders, 2, 1, 10, &runtime).iter().all(Result::is_ok));
        std::fs::rename(&places[broken], folder.path().join("aside")).unwrap();
        std::fs::create_dir(&places[broken]).unwrap();
        std::fs::write(places[broken].join("0000000020"), "in the way").unwrap();
        let heard = save(&config, &folders, 2, 2, 20, &runtime);
        let complaint = heard[0].as_ref().unwrap_err();
        assert!(complaint.contains(folders[broken].to_str().unwrap()), "{complaint}");
        std::fs::remove_file(places[broken].join("0000000020")).unwrap();
        let expected = bits(&state(&config, 2));
        assert!(restore(&config, &folders, 2, &runtime).iter().all(|found| *found == (20, expected.clone())));
        // A run that only comes to its end again completes what is missing.
        let identity = Identity::new(&config, "none", 1.0, 3, 1);
        let to = SaveTo { stores: stores(&folders), identity, nonce: 1, place: (0, 1) };
        let state = state(&config, 2);
        let saver =
            Saver::start(to, &state, &config.checkpoint, Device::Cpu, runtime.handle().clone(), Reporter::log_only()).unwrap();
        saver.finish().unwrap();
        assert!(restore(&config, &[folders[broken]], 1, &runtime)[0] == (20, expected));
    }
}

/// A worker that cannot write its share says so, and nobody waits for it; the next save goes well.
#[test]
fn a_share_that_cannot_be_written_fails_the_save_at_once_and_not_the_next_one() {
    let (config, runtime) = (config(&[]), runtime());
    let folder = tempfile::tempdir().unwrap();
    let heard: Vec<(Result<(), String>, Result<(), String>)> = together(2, |rank, all| {
        let identity = Identity::new(&config, "none", 1.0, 1, 2);
        let to = SaveTo { stores: stores(&[folder.path()]), identity, nonce: 5, place: (rank, 2) };
        let state = state(&config, 3);
        let (handle, reporter) = (runtime.handle().clone(), Reporter::log_only());
        let mut saver = Saver::start(to, &state, &config.checkpoint, Device::Cpu, handle, reporter).unwrap();
        if rank == 1 {
            // A part cannot be published where a folder is in the way.
            let parts = parts(&state);
            let owners = assign(&parts.iter().map(Part::bytes).collect::<Vec<_>>(), 2);
            let last = parts.iter().zip(owners).rfind(|(_, owner)| *owner == 1).unwrap().0;
            let attempt = format!("0000000010/000001-{:016x}/{}.safetensors", attempt_number(5, 1), last.name);
            std::fs::create_dir_all(folder.path().join(attempt)).unwrap();
        }
        all.barrier().unwrap();
        saver.save(&state, 10, &Detours::default(), Judgement::Known(None)).unwrap();
        saver.wait().unwrap();
        let first = saver.finish().map_err(|error| error.to_string());
        all.barrier().unwrap();
        saver.save(&state, 20, &Detours::default(), Judgement::Known(None)).unwrap();
        (first, saver.finish().map_err(|error| error.to_string()))
    });
    for (rank, (first, second)) in heard.iter().enumerate() {
        assert!(first.as_ref().unwrap_err().contains("step 10"), "rank {rank}: {first:?}");
        assert_eq!(*second, Ok(()), "rank {rank}");
    }
    assert!(heard[0].0.as_ref().unwrap_err().contains("writer 1"), "{:?}", heard[0].0);
    assert_eq!(restore(&config, &[folder.path()], 1, &runtime)[0].0, 20);
    let left = runtime.block_on(Store::open(folder.path().to_str().unwrap()).unwrap().list("0000000010")).unwrap();
    assert_eq!(left, [], "nothing is left of the first one");
}
