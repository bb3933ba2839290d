//! Real runs whose workers are killed while they save, clear away and load: what the journal says is safe is never lost, and the last weights
//! are those of the run that nobody disturbed.

use std::thread::sleep;
use std::time::Duration;

use common::crash::{self, Order, Point};
use common::run_dir::RunDir;
use nix::sys::signal::{Signal, kill};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lab::{Lab, PATIENCE, binary};
use crate::processes::Running;
use crate::records::{final_weights, generations, last_step, lines, newest_checkpoint};
use crate::survival::{STEPS, undisturbed};
use crate::torture::{crashes, seed};

/// Saves after every step or two: something is always under way.
const SETTINGS: [&str; 4] = ["--set", "checkpoint.every_steps=2", "--set", "cluster.max_restarts=100"];

/// No generation goes on from before a checkpoint that the journal has told of when it was started.
fn assert_nothing_acknowledged_was_lost(run: &RunDir) {
    let (mut acknowledged, mut at_start) = (0, 0);
    for event in lines(&run.journal()) {
        let step = event["step"].as_u64().unwrap_or_default();
        match event["event"].as_str().unwrap() {
            "checkpoint-committed" => acknowledged = acknowledged.max(step),
            "generation-started" => at_start = acknowledged,
            "first-step" => assert!(step > at_start, "step {at_start} was safe, and {event}"),
            _ => {}
        }
    }
}

/// The newest checkpoint that the journal tells of.
fn acknowledged(run: &RunDir) -> u64 {
    let committed = |event: &serde_json::Value| (event["event"] == "checkpoint-committed").then(|| event["step"].as_u64())?;
    lines(&run.journal()).iter().filter_map(committed).max().unwrap_or_default()
}

/// How late a worker may die at a point. Each has six parts: in the middle of a save, not always at its first one. What comes once in a save
/// has to come early, or a run of twenty saves, in which each generation counts anew, ends before it has seen all points.
fn passes(point: Point) -> u64 {
    match point {
        Point::Copying | Point::PartWritten | Point::PartDeleted | Point::Restoring => 6,
        _ => 2,
    }
}

#[test]
fn a_worker_that_dies_at_any_named_moment_changes_no_weight() {
    let lab = Lab::prepared();
    let mut random = StdRng::seed_from_u64(seed());
    let ranks = |point| match point {
        Point::Copying | Point::PartWritten | Point::ShareWritten | Point::Restoring => vec![0, 1],
        _ => vec![0],
    };
    let mut orders = Vec::new();
    for point in Point::ALL {
        for rank in ranks(point) {
            let pass = random.random_range(1..=passes(point));
            let done = lab.path().join(format!("{}-{rank}", point.name()));
            orders.push(Order { point, pass, rank, done });
        }
    }
    let variable = orders.iter().map(Order::to_string).collect::<Vec<_>>().join(",");
    println!("{}={variable}", crash::VARIABLE);
    let mut command = std::process::Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml"]).args(SETTINGS).current_dir(lab.path()).env(crash::VARIABLE, &variable);
    Running::start_piped(command).wait(2 * PATIENCE).expect_success();
    for order in &orders {
        assert!(order.done.exists(), "{order} did not happen");
    }
    // Two ranks may have died at once; nothing else has been a reason to start again.
    let restarts = generations(&lab.run()) as usize - 1;
    assert!((Point::ALL.len()..=orders.len()).contains(&restarts), "{restarts} restarts");
    assert_nothing_acknowledged_was_lost(&lab.run());
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
}

/// A worker, or the whole launch as when the machine goes down; then whatever the journal told is there.
fn strike(lab: &Lab, mut launch: Running, random: &mut StdRng) -> Running {
    let workers = launch.wait_until("workers", PATIENCE, || Some(launch_workers(lab)).filter(|workers| !workers.is_empty()));
    sleep(Duration::from_millis(random.random_range(0..900)));
    let victim = random.random_range(0..=workers.len());
    if let Some(victim) = workers.get(victim) {
        // One that has ended meanwhile is as dead.
        let _ = kill(*victim, Signal::SIGKILL);
        return launch;
    }
    launch.kill_all();
    let (told, found) = (acknowledged(&lab.run()), newest_checkpoint(&lab.run()).unwrap_or_default());
    assert!(found >= told, "step {told} was safe, and {found} is the newest");
    lab.start_resume()
}

/// The processes of the workers of the newest generation, in the order of their ranks, as they have reported themselves.
fn launch_workers(lab: &Lab) -> Vec<nix::unistd::Pid> {
    let events = lines(&lab.run().journal());
    let newest = generations(&lab.run());
    let joined = events.iter().filter(|event| event["event"] == "worker-joined" && event["generation"] == newest);
    joined.filter_map(|event| Some(nix::unistd::Pid::from_raw(i32::try_from(event["pid"].as_i64()?).ok()?))).collect()
}

#[test]
fn kills_at_random_moments_of_a_run_change_no_weight() {
    let mut random = StdRng::seed_from_u64(seed());
    let count = crashes(10);
    let mut done = 0;
    while done < count {
        let lab = Lab::prepared();
        let mut launch = lab.start_launch(&SETTINGS);
        // Some to a run: each costs a second, and the run has to end.
        for _ in 0..5.min(count - done) {
            if !launch.is_running() || last_step(&lab.run()) == Some(STEPS) {
                break;
            }
            launch = strike(&lab, launch, &mut random);
            done += 1;
        }
        launch.wait(PATIENCE).expect_success();
        assert_nothing_acknowledged_was_lost(&lab.run());
        assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
        println!("{done} of {count} crashes");
    }
}

/// Rot in the newest checkpoint, in whichever worker's share: the run goes on from the one before, and says so.
#[test]
fn a_damaged_checkpoint_is_passed_over_by_all_workers() {
    let lab = Lab::prepared();
    lab.launch(&[]).expect_success();
    for (generation, (part, damage)) in
        [("weights-unet", "flipped"), ("exp_avg-backbone", "truncated"), ("ema-slot_attention", "removed")].into_iter().enumerate()
    {
        let (_, manifest) = crate::records::newest(&lab.run().checkpoints()).unwrap();
        let object = &manifest.parts.iter().find(|found| found.name.starts_with(part.split('-').next().unwrap())).unwrap().object;
        let path = lab.run().checkpoints().join(object);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "flipped" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            "truncated" => std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        assert_eq!(newest_checkpoint(&lab.run()), Some(32));
        lab.resume().expect_success();
        assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
        let log = |rank| std::fs::read_to_string(lab.run().log_file(generation as u64 + 2, rank)).unwrap();
        assert!(log(0).contains("the checkpoint of step 40 is passed over"), "{}", log(0));
        assert!(log(0).contains(object.as_str()) || log(1).contains(object.as_str()), "{damage}: {}{}", log(0), log(1));
    }
}
