//! Whatever ends a run, the run that goes on from its newest checkpoint ends with the very weights of one that was never disturbed.

use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill, killpg};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lab::{Lab, PATIENCE};
use crate::records::{Weights, final_weights, generations, last_step, newest_checkpoint};

/// The steps of `tiny.toml`.
pub const STEPS: u64 = 40;

/// The weights of the run that nothing disturbs.
pub fn undisturbed() -> &'static Weights {
    static WEIGHTS: OnceLock<Weights> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let lab = Lab::prepared();
        lab.launch(&[]).expect_success();
        final_weights(&lab.run(), STEPS)
    })
}

/// Random steps from a seed that a failing test prints, and that `LSD_TEST_SEED` brings back.
fn random_steps(count: usize) -> Vec<u64> {
    let seed = std::env::var("LSD_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("LSD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut steps: Vec<u64> = (0..count).map(|_| random.random_range(1..STEPS)).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn sigkill_of_everything_at_any_step_changes_no_weight() {
    let lab = Lab::prepared();
    for (attempt, step) in random_steps(3).into_iter().enumerate() {
        let mut launch = if attempt == 0 { lab.start_launch(&[]) } else { lab.start_resume() };
        launch.wait_until(&format!("step {step}"), PATIENCE, || last_step(&lab.run()).filter(|at| *at >= step));
        launch.kill_all();
    }
    lab.resume().expect_success();
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}

#[test]
fn a_killed_worker_is_replaced_by_generation_2_of_the_same_launch() {
    let lab = Lab::prepared();
    let mut launch = lab.start_launch(&[]);
    launch.wait_until("a checkpoint", PATIENCE, || newest_checkpoint(&lab.run()));
    let workers = launch.descendants("worker");
    assert_eq!(workers.len(), 2);
    kill(workers[1], Signal::SIGKILL).unwrap();
    launch.wait(PATIENCE).expect_success();
    assert_eq!(generations(&lab.run()), 2);
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}

#[test]
fn ctrl_c_saves_at_the_next_step_and_the_run_goes_on_from_there() {
    let lab = Lab::prepared();
    let mut launch = lab.start_launch(&[]);
    let step = launch.wait_until("step 3", PATIENCE, || last_step(&lab.run()).filter(|at| *at >= 3));
    killpg(launch.pid(), Signal::SIGINT).unwrap();
    let ended = launch.wait(PATIENCE);
    ended.expect_code(130);
    let saved = newest_checkpoint(&lab.run()).unwrap();
    assert!(saved >= step && saved < STEPS, "saved at step {saved}, asked to at about step {step}");
    lab.resume().expect_success();
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}

#[test]
fn a_second_launch_on_a_running_run_is_refused_and_disturbs_nothing() {
    let lab = Lab::prepared();
    let mut launch = lab.start_launch(&[]);
    launch.wait_until("step 1", PATIENCE, || last_step(&lab.run()));
    for second in [lab.launch(&[]), lab.resume()] {
        second.expect_refusal(&["runs/tiny"]);
    }
    launch.wait(PATIENCE).expect_success();
    assert_eq!(generations(&lab.run()), 1);
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}
