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
    /// What carries the gradients.
    pub collective: CollectiveKind,
    /// CPU threads per worker; 0 shares the host's cores among its workers.
    pub threads_per_worker: usize,
    /// Automatic restarts from the newest checkpoint without any new checkpoint in between, before giving up.
    pub max_restarts: usize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            nodes: 1,
            workers_per_node: 1,
            launcher: LauncherKind::Auto,
            collective: CollectiveKind::Auto,
            threads_per_worker: 0,
            max_restarts: 2,
        }
    }
}

/// How workers are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LauncherKind {
    /// `mpirun` when the collective is MPI, else plain child processes.
    Auto,
    /// Plain child processes on this host.
    Local,
    /// `mpirun`.
    Mpirun,
}

/// What carries the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveKind {
    /// Solo for one worker, MPI for more.
    Auto,
    /// One worker, nothing to reduce.
    Solo,
    /// MPI.
    Mpi,
}
