//! Runs on the four-host Slurm cluster: the ways to launch, everything that can go wrong, and what becomes of the weights.
//!
//! Each test has a run of its own, with one worker per host, which ends with the weights of the run that nothing disturbs. A run that
//! went on with fewer hosts for a while sums in another order, so its losses are compared instead, up to rounding.

mod bad_input;
mod faults;
mod launching;
mod stopping;

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use common::journal::{self, Entry, Event};
use common::run_dir::RunDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cluster::{Claim, Cluster};
use crate::lab::{Ended, Lab, binary, copy_folder};
use crate::processes::Running;
use crate::records::{Weights, final_weights, last_step, series};

/// The steps of a run: enough for several faults, some seconds in all.
const STEPS: u64 = 60;

/// Longer than any of these runs takes on a busy machine, with all its restarts.
const PATIENCE: Duration = Duration::from_secs(240);

/// A folder that all hosts see, with a small experiment in it.
struct ClusterLab<'a> {
    cluster: &'a Cluster,
    folder: TempDir,
}

impl<'a> ClusterLab<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let folder = cluster.shared_folder();
        let prepared = Lab::prepared();
        copy_folder(&prepared.path().join("data"), &folder.path().join("data"));
        let config = include_str!("tiny.toml").replace("workers_per_node = 2", "workers_per_node = 1\nhang_after = 4");
        let config = config.replace("steps = 40\n", &format!("steps = {STEPS}\n"));
        std::fs::write(folder.path().join("tiny.toml"), config).unwrap();
        Self { cluster, folder }
    }

    fn run(&self) -> RunDir {
        RunDir::new(self.folder.path().join("runs/tiny"))
    }

    /// `orchestrator ARGUMENTS` on the login node, in the lab's folder.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.command(binary("orchestrator").to_str().unwrap());
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::start_piped(self.command(arguments))
    }

    /// `orchestrator ARGUMENTS`, to its end.
    fn orchestrator(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait(PATIENCE)
    }

    /// `launch --nodes 4 --wait` of a new run.
    fn launch(&self) -> Running {
        self.start(&["launch", "--config", "tiny.toml", "--nodes", "4", "--wait"])
    }

    fn entries(&self) -> Vec<Entry> {
        journal::read(&self.run().journal()).unwrap()
    }

    /// How many entries of the journal are of a kind.
    fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.entries().iter().filter(|entry| is(&entry.event)).count()
    }

    /// The Slurm job of the run.
    fn slurm_job(&self) -> String {
        let job = |event| if let Event::Submitted { slurm_job } = event { Some(slurm_job) } else { None };
        self.entries().into_iter().find_map(|entry| job(entry.event)).expect("a submission in the journal")
    }

    /// Waits until the run has done `step` steps in `generation` or a later one.
    fn wait_for_step(&self, running: &mut Running, generation: u64, step: u64) {
        running.wait_until(&format!("step {step} of generation {generation}"), PATIENCE, || {
            let begun =
                self.entries().iter().any(|entry| entry.generation >= generation && matches!(entry.event, Event::FirstStep { .. }));
            (begun && last_step(&self.run())? >= step).then_some(())
        });
    }

    /// The processes of that name on a host.
    fn processes(&self, node: &str, name: &str) -> Vec<Pid> {
        let comm = |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        self.cluster.processes(node).into_iter().filter(|pid| comm(pid).trim() == name).collect()
    }

    fn signal(&self, node: &str, name: &str, signal: Signal) {
        let found = self.processes(node, name);
        assert!(!found.is_empty(), "no {name} on {node}");
        found.into_iter().for_each(|pid| kill(pid, signal).unwrap());
    }

    /// The journal's first failure, as (rank, host, reason).
    fn first_failure(&self) -> (Option<usize>, Option<String>, String) {
        let failure = |entry: Entry| match entry.event {
            Event::Failed { rank, host, .. } => Some((rank, host, entry.reason)),
            _ => None,
        };
        self.entries().into_iter().find_map(failure).expect("a failure in the journal")
    }

    /// Time from `moment` to the first entry after it that `is`.
    fn until(&self, moment: SystemTime, is: impl Fn(&Event) -> bool) -> Duration {
        let time = |entry: &Entry| humantime::parse_rfc3339(&entry.time).unwrap();
        let entries = self.entries();
        let found = entries.iter().find(|entry| is(&entry.event) && time(entry) + Duration::from_millis(1) >= moment);
        time(found.expect("such an entry")).duration_since(moment).unwrap_or_default()
    }

    /// Asserts that the run ended with the weights of the run that nothing disturbed.
    fn assert_undisturbed_weights(&self) {
        assert_eq!(&final_weights(&self.run(), STEPS), &undisturbed(self.cluster).0, "the weights differ");
        self.assert_nothing_left();
    }

    /// Asserts that the run took the steps of the undisturbed one, up to rounding.
    fn assert_undisturbed_losses(&self) {
        let (losses, undisturbed) = (self.losses(), &undisturbed(self.cluster).1);
        assert_eq!(losses.len(), undisturbed.len());
        for (step, (loss, expected)) in losses.iter().zip(undisturbed).enumerate() {
            assert!((loss - expected).abs() < 2e-3 * expected, "step {}: loss {loss}, undisturbed {expected}", step + 1);
        }
        self.assert_nothing_left();
    }

    /// The loss of every step, as it was computed last.
    fn losses(&self) -> Vec<f64> {
        let steps = series(&self.run(), "step");
        let mut losses = vec![f64::NAN; STEPS as usize];
        steps.iter().zip(series(&self.run(), "loss")).for_each(|(step, loss)| losses[*step as usize - 1] = loss);
        losses
    }

    /// Asserts that no process of the run is left on any host, and no file that only a living run has.
    fn assert_nothing_left(&self) {
        for node in crate::cluster::NODES {
            for name in ["worker", "orchestrator", "srun"] {
                self.cluster.wait_for(&format!("the end of {name} on {node}"), Duration::from_secs(20), || {
                    self.processes(node, name).is_empty().then_some(())
                });
            }
        }
        for file in [self.run().coordinator(), self.run().stop_request()] {
            assert!(!file.exists(), "{} is left", file.display());
        }
    }
}

/// Weights and losses of the run that nothing disturbs.
fn undisturbed(cluster: &Cluster) -> &'static (Weights, Vec<f64>) {
    static RUN: OnceLock<(Weights, Vec<f64>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let lab = ClusterLab::new(cluster);
        lab.launch().wait(PATIENCE).expect_success();
        (final_weights(&lab.run(), STEPS), lab.losses())
    })
}

/// The cluster for a test of this folder.
fn claim(test: &str) -> Option<Claim> {
    Cluster::claim(&format!("slurm::{test}"))
}
