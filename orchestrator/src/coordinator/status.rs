//! `status.json`: the present of a run in one small file, so that any host that sees the run folder can watch.

use std::path::Path;

use common::config::size;
use common::control::{Evaluation, Phase, Progress, Spent};
use common::job::Job;
use common::run_dir::replace_file;
use serde::{Deserialize, Serialize};

use crate::slurm::Allocation;
use crate::supervisor::{Findings, Recent, Setbacks, State, Supervisor, Unsaved, Worker};

/// Content of `status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// What the workers do.
    pub(crate) job: Job,
    /// Where the launch stands.
    pub(crate) state: State,
    /// When this was written (UTC, RFC 3339).
    pub(crate) updated: String,
    /// When the launch began.
    pub(crate) started: String,
    /// The Slurm job that the launch runs in.
    pub(crate) slurm_job: Option<String>,
    /// When its allocation ends.
    pub(crate) deadline: Option<String>,
    /// Process id of the coordinator.
    pub(crate) coordinator_pid: u32,
    /// Its host.
    pub(crate) coordinator_host: String,
    /// The current generation.
    pub(crate) generation: u64,
    /// Workers per generation.
    pub(crate) world: usize,
    /// Hosts that do not answer any more, and that the generation does without.
    #[serde(default)]
    pub(crate) lost_hosts: Vec<String>,
    /// Those that have reported.
    pub(crate) workers: Vec<WorkerStatus>,
    /// What the checkups of all of them say together, once the last one is there.
    #[serde(default)]
    pub(crate) checkup: Option<Findings>,
    /// Rank 0's last word on how far the job is.
    pub(crate) progress: Option<Progress>,
    /// Floating point operations that training makes of an image.
    #[serde(default)]
    pub(crate) flops_per_image: Option<u64>,
    /// Model FLOPs utilisation: their share of what the workers' matrix products reached before the first step.
    #[serde(default)]
    pub(crate) utilisation: Option<f64>,
    /// Newest checkpoint of this launch.
    pub(crate) checkpoint: Option<u64>,
    /// When that was committed.
    pub(crate) checkpoint_committed: Option<String>,
    /// Seconds from the wish to save to the commit, the longest of this launch.
    pub(crate) checkpoint_seconds: Option<f64>,
    /// The checkpoint that was not saved, if none was since.
    #[serde(default)]
    pub(crate) unsaved: Option<Unsaved>,
    /// Checkpoints of this launch that were not saved.
    #[serde(default)]
    pub(crate) failed_saves: u64,
    /// How often training went on after gradients that were no numbers.
    #[serde(default)]
    pub(crate) setbacks: Setbacks,
    /// How the model did on held-out images, the last time that this launch looked.
    #[serde(default)]
    pub(crate) evaluation: Option<Evaluation>,
    /// Restarts since that checkpoint.
    pub(crate) restarts: usize,
    /// The newest failure.
    pub(crate) failure: Option<String>,
    /// Exit code of the orchestrator, when the launch is over.
    pub(crate) exit_code: Option<u8>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    /// Its rank.
    pub(crate) rank: usize,
    /// Its host.
    pub(crate) host: String,
    /// Its process id there.
    pub(crate) pid: u32,
    /// What it computes on.
    pub(crate) device: String,
    /// The rate of its matrix products in TFLOP/s, once tried.
    #[serde(default)]
    pub(crate) matmul_tflops: Option<f64>,
    /// Units of work done.
    pub(crate) step: u64,
    /// Whether its connection is open.
    pub(crate) connected: bool,
    /// What its job's thread was doing at the last heartbeat.
    #[serde(default = "starting")]
    pub(crate) phase: Phase,
    /// For how many seconds.
    #[serde(default)]
    pub(crate) phase_seconds: f64,
    /// Seconds per phase over the last half minute or so, which shares of its time are computed from.
    #[serde(default)]
    pub(crate) recent: Spent,
    /// Computing seconds per step over the same time, once known.
    pub(crate) compute_per_step: Option<f64>,
    /// Whether it keeps the others waiting.
    #[serde(default)]
    pub(crate) straggler: bool,
}

/// What a status from before phases were told of says.
fn starting() -> Phase {
    Phase::Starting
}

impl Status {
    /// As a launch begins.
    pub(crate) fn first(job: Job, supervisor: &Supervisor, allocation: Option<&Allocation>) -> Self {
        let now = now();
        Self {
            job,
            state: supervisor.state(),
            updated: now.clone(),
            started: now,
            slurm_job: allocation.map(|allocation| allocation.job.clone()),
            deadline: None,
            coordinator_pid: std::process::id(),
            coordinator_host: common::place::host_name(),
            generation: supervisor.generation(),
            world: supervisor.world(),
            lost_hosts: Vec::new(),
            workers: Vec::new(),
            checkup: None,
            progress: None,
            flops_per_image: None,
            utilisation: None,
            checkpoint: None,
            checkpoint_committed: None,
            checkpoint_seconds: None,
            unsaved: None,
            failed_saves: 0,
            setbacks: Setbacks::default(),
            evaluation: None,
            restarts: 0,
            failure: None,
            exit_code: None,
        }
    }

    /// Takes over rank 0's word on how far the job is.
    pub(crate) fn take_progress(&mut self, progress: Progress) {
        self.progress = Some(progress);
        self.utilisation = self.utilised();
    }

    /// Known once training tells its speed and all workers have tried out their devices.
    fn utilised(&self) -> Option<f64> {
        let images = self.progress.as_ref()?.fields.get("images_per_second")?;
        size::utilisation(*images, self.flops_per_image?, self.checkup.as_ref()?.total_tflops)
    }

    /// Takes over what the supervisor knows.
    pub(crate) fn update(&mut self, supervisor: &Supervisor) {
        self.state = supervisor.state();
        self.updated = now();
        self.generation = supervisor.generation();
        self.world = supervisor.world();
        self.lost_hosts = supervisor.lost_hosts();
        self.workers = supervisor.workers().iter().map(|worker| worker_status(supervisor, worker)).collect();
        self.checkup = supervisor.findings().cloned();
        self.utilisation = self.utilised();
        if self.checkpoint != supervisor.checkpoint() {
            self.checkpoint = supervisor.checkpoint();
            self.checkpoint_committed = Some(now());
        }
        self.checkpoint_seconds = Some(supervisor.longest_save()).filter(|seconds| *seconds > 0.0);
        self.unsaved = supervisor.unsaved().cloned();
        self.failed_saves = supervisor.failed_saves();
        self.setbacks = supervisor.setbacks();
        self.evaluation = supervisor.evaluation().cloned();
        self.restarts = supervisor.restarts();
        self.failure = supervisor.failure().map(ToString::to_string);
    }

    /// Reads the file at `path`; none if it is not there or is no status of this version.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Replaces the file at `path`.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        replace_file(path, &serde_json::to_vec(self)?, 0o644)
    }
}

fn worker_status(supervisor: &Supervisor, worker: &Worker) -> WorkerStatus {
    let rank = worker.hello.rank;
    let Recent { spent, per_step } = supervisor.recent(rank);
    WorkerStatus {
        rank,
        host: worker.hello.host.clone(),
        pid: worker.hello.pid,
        device: worker.hello.device.clone(),
        matmul_tflops: worker.checkup.as_ref().map(|checkup| checkup.matmul_tflops),
        step: worker.step,
        connected: worker.connected,
        phase: worker.pulse.phase,
        phase_seconds: worker.pulse.phase_seconds,
        recent: spent,
        compute_per_step: per_step,
        straggler: supervisor.straggler() == Some(rank),
    }
}

/// The present time as in the journal.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::{findings, status};

    #[test]
    fn utilisation_needs_a_speed_operations_and_checkups() {
        // 208 images per second of 250 GFLOP, by two workers of 100 TFLOP/s.
        let mut status =
            Status { flops_per_image: Some(250_000_000_000), checkup: Some(findings(100.0)), ..status(State::Running, 2) };
        let progress = status.progress.clone().unwrap();
        status.take_progress(progress.clone());
        assert_eq!(status.utilisation, Some(0.26));
        status.take_progress(Progress { fields: [].into(), ..progress.clone() });
        assert_eq!(status.utilisation, None);
        status.checkup = None;
        status.take_progress(progress);
        assert_eq!(status.utilisation, None);
    }
}
