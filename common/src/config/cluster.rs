//! `[cluster]`: how many workers on which hosts, started how, and what connects them.

use serde::{Deserialize, Serialize};

/// `[cluster]`: workers, hosts and what connects them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Number of hosts.
    pub nodes: usize,
    /// Workers per host: one per GPU, or one per CPU share.
    pub workers_per_node: usize,
    /// How workers are started.
    pub launcher: LauncherKind,
    /// What workers compute on.
    pub device: DeviceKind,
    /// What carries the gradients.
    pub collective: CollectiveKind,
    /// CPU threads per worker; 0 shares the host's cores among its workers.
    pub threads_per_worker: usize,
    /// Automatic restarts from the newest checkpoint without any new checkpoint in between, before giving up.
    pub max_restarts: usize,
    /// Hosts that `mpirun` reaches by ssh, outside of Slurm; there may be more of them than `nodes`, as spares.
    pub hosts: Vec<String>,
    /// When hosts are lost, the run goes on as long as this many are left, with the same global batch.
    pub min_nodes: usize,
    /// Where the coordinator listens: the name of a network interface or an address of its host. Chosen by the route to the other hosts
    /// if not set.
    pub interface: Option<String>,
    /// A step that takes longer than this many seconds, and much longer than the steps before, counts as hanging.
    pub hang_after: u64,
    /// Address, as `0.0.0.0:9400`, on which the coordinator serves figures for Prometheus; nowhere if not set.
    pub prometheus: Option<String>,
    /// `[cluster.slurm]`: what is asked of Slurm.
    pub slurm: SlurmConfig,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: 1,
            workers_per_node: 1,
            launcher: LauncherKind::Auto,
            device: DeviceKind::Auto,
            collective: CollectiveKind::Auto,
            threads_per_worker: 0,
            max_restarts: 3,
            hosts: Vec::new(),
            min_nodes: 1,
            interface: None,
            hang_after: 60,
            prometheus: None,
            slurm: SlurmConfig::default(),
        }
    }
}

/// `[cluster.slurm]`: what is asked of Slurm. What is not set is left to the cluster's own defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmConfig {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--time`, as `2-00:00:00`.
    pub time: Option<String>,
    /// `--gpus-per-node`; 0 asks for one per worker with `cluster.device = "cuda"`, else for none.
    pub gpus_per_node: usize,
    /// `--mem`: memory per host, as `200G`.
    pub memory: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--exclude`: hosts to keep away from.
    pub exclude: Option<String>,
    /// Any other options of sbatch, as `["--reservation=lsd"]`.
    pub options: Vec<String>,
    /// Whether a job that was preempted or ran out of time goes back into the queue to be continued.
    pub requeue: bool,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            time: None,
            gpus_per_node: 0,
            memory: None,
            constraint: None,
            exclude: None,
            options: Vec::new(),
            requeue: true,
        }
    }
}

/// How workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LauncherKind {
    /// `srun` inside a Slurm allocation. Outside of one: a Slurm job for several hosts unless `hosts` names them, `mpirun` when the
    /// collective is MPI, else a plain child process.
    Auto,
    /// Plain child processes on this host.
    Local,
    /// `mpirun`, on this host or over ssh on `hosts`.
    Mpirun,
    /// Slurm: `srun` inside an allocation, `sbatch` outside of one.
    Slurm,
}

/// What workers compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU each where the coordinator's host has NVIDIA GPUs, else a share of the CPU.
    Auto,
    /// A share of the CPU.
    Cpu,
    /// One GPU each; without one, a worker does not start.
    Cuda,
}

/// What carries the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveKind {
    /// Solo for one worker; for more, NCCL on GPUs and MPI on CPUs.
    Auto,
    /// One worker, nothing to reduce.
    Solo,
    /// MPI.
    Mpi,
    /// NCCL.
    Nccl,
}
