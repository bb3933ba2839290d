//! How workers are started: one trait, one file per way. A launcher only says which processes to start; it starts none itself, so
//! `plan` prints exactly what `launch` does.

mod local;
mod mpirun;

use std::fmt;
use std::path::{Path, PathBuf};

use common::config::{ClusterConfig, CollectiveKind, LauncherKind};
use common::job::Job;

/// What is to be started.
#[derive(Debug, Clone)]
pub(crate) struct LaunchSpec {
    /// The worker binary.
    pub(crate) worker: PathBuf,
    /// What the workers do.
    pub(crate) job: Job,
    /// The run's folder.
    pub(crate) run: PathBuf,
    /// Number of workers.
    pub(crate) world: usize,
    /// CPU threads of each.
    pub(crate) threads: usize,
    /// Whether this user is root, which Open MPI wants to be told.
    pub(crate) root: bool,
}

/// One process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessSpec {
    /// The worker's rank, when the process is a worker itself.
    pub(crate) rank: Option<usize>,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Variables added to the environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Variables taken out of it.
    pub(crate) without: &'static [&'static str],
}

/// A way to start workers.
pub(crate) trait Launcher {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Whether this machine has what it needs.
    fn check(&self) -> Result<(), LauncherError>;

    /// The processes of one generation.
    fn processes(&self, spec: &LaunchSpec, generation: u64) -> Vec<ProcessSpec>;
}

/// Why workers cannot be started as configured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LauncherError {
    /// No mpirun.
    #[error(
        "mpirun is not in PATH, and {world} workers need it: install Open MPI (Debian, Ubuntu: apt-get install openmpi-bin), or use \
         one worker (--workers 1)"
    )]
    NoMpirun {
        /// Number of workers.
        world: usize,
    },
    /// Plain child processes know nothing of each other.
    #[error("cluster.launcher = \"local\" starts a single worker, not {world}: use \"auto\" or \"mpirun\" with more")]
    LocalWorld {
        /// Number of workers.
        world: usize,
    },
    /// Only this host.
    #[error("cluster.nodes = {nodes}: workers are started on this host only; use cluster.nodes = 1 and cluster.workers_per_node")]
    Nodes {
        /// Number of hosts.
        nodes: usize,
    },
}

/// The launcher that the configuration asks for.
pub(crate) fn choose(cluster: &ClusterConfig) -> Result<Box<dyn Launcher>, LauncherError> {
    let world = world(cluster);
    if cluster.nodes > 1 {
        return Err(LauncherError::Nodes { nodes: cluster.nodes });
    }
    match cluster.launcher {
        LauncherKind::Local if world > 1 => Err(LauncherError::LocalWorld { world }),
        LauncherKind::Local => Ok(Box::new(local::Local)),
        LauncherKind::Auto if world == 1 && cluster.collective != CollectiveKind::Mpi => Ok(Box::new(local::Local)),
        LauncherKind::Auto | LauncherKind::Mpirun | LauncherKind::Slurm => Ok(Box::new(mpirun::Mpirun { world })),
    }
}

/// Number of workers.
pub(crate) fn world(cluster: &ClusterConfig) -> usize {
    cluster.nodes * cluster.workers_per_node
}

/// CPU threads per worker: as configured, or the host's cores shared out.
pub(crate) fn threads(cluster: &ClusterConfig, cores: usize) -> usize {
    match cluster.threads_per_worker {
        0 => (cores / cluster.workers_per_node.max(1)).max(1),
        threads => threads,
    }
}

/// Variables for every worker. Large blocks stay with the process instead of going back to the system after every operation: page
/// faults would cost some percent of a training step.
fn environment(spec: &LaunchSpec) -> Vec<(&'static str, String)> {
    vec![
        ("OMP_NUM_THREADS", spec.threads.to_string()),
        ("MALLOC_MMAP_THRESHOLD_", (1_u64 << 32).to_string()),
        ("MALLOC_TRIM_THRESHOLD_", (1_u64 << 32).to_string()),
        ("MALLOC_TOP_PAD_", (1_u64 << 26).to_string()),
    ]
}

/// The worker's own arguments.
fn worker_arguments(spec: &LaunchSpec, generation: u64) -> Vec<String> {
    let run = spec.run.display().to_string();
    vec![spec.job.name().into(), "--run-dir".into(), run, "--generation".into(), generation.to_string()]
}

/// The file of that name in a folder of PATH.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

impl fmt::Display for ProcessSpec {
    /// As a line for a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.environment.is_empty() || !self.without.is_empty() {
            f.write_str("env")?;
        }
        for name in self.without {
            write!(f, " -u {name}")?;
        }
        for (name, value) in &self.environment {
            write!(f, " {name}={}", quoted(value))?;
        }
        write!(f, " {}", quoted_path(&self.program))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(world: usize, root: bool) -> LaunchSpec {
        LaunchSpec { worker: "/opt/lsd/worker".into(), job: Job::Train, run: "runs/my run".into(), world, threads: 3, root }
    }

    fn cluster(workers: usize, launcher: LauncherKind) -> ClusterConfig {
        ClusterConfig { workers_per_node: workers, launcher, ..ClusterConfig::default() }
    }

    #[test]
    fn one_worker_is_a_plain_child_and_more_need_mpirun() {
        let name = |cluster| choose(&cluster).map(|launcher| launcher.name());
        assert_eq!(name(cluster(1, LauncherKind::Auto)), Ok("local"));
        assert_eq!(name(cluster(2, LauncherKind::Auto)), Ok("mpirun"));
        assert_eq!(name(cluster(1, LauncherKind::Mpirun)), Ok("mpirun"));
        assert_eq!(name(ClusterConfig { collective: CollectiveKind::Mpi, ..cluster(1, LauncherKind::Auto) }), Ok("mpirun"));
        assert_eq!(name(cluster(2, LauncherKind::Local)), Err(LauncherError::LocalWorld { world: 2 }));
        assert_eq!(name(ClusterConfig { nodes: 2, ..cluster(1, LauncherKind::Auto) }), Err(LauncherError::Nodes { nodes: 2 }));
    }

    #[test]
    fn plan_prints_a_line_that_a_shell_takes() {
        let line = mpirun::Mpirun { world: 2 }.processes(&spec(2, true), 4)[0].to_string();
        assert!(line.starts_with("env OMP_NUM_THREADS=3 MALLOC_MMAP_THRESHOLD_=4294967296 "), "{line}");
        let mpirun = "mpirun -np 2 --bind-to none --oversubscribe --allow-run-as-root /opt/lsd/worker train --run-dir 'runs/my run' --generation 4";
        assert!(line.ends_with(mpirun), "{line}");
        assert!(!mpirun::Mpirun { world: 2 }.processes(&spec(2, false), 4)[0].to_string().contains("root"));
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_local_worker_is_told_its_place_and_nobody_else_s() {
        let processes = local::Local.processes(&spec(1, false), 1);
        let place = |name| processes[0].environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        assert_eq!((place("RANK"), place("WORLD_SIZE"), place("LOCAL_RANK")), (Some("0"), Some("1"), Some("0")));
        assert!(processes[0].without.contains(&"SLURM_PROCID"));
    }

    #[test]
    fn cores_are_shared_out_unless_the_configuration_says_otherwise() {
        assert_eq!(threads(&cluster(2, LauncherKind::Auto), 16), 8);
        assert_eq!(threads(&cluster(4, LauncherKind::Auto), 2), 1);
        assert_eq!(threads(&ClusterConfig { threads_per_worker: 5, ..ClusterConfig::default() }, 2), 5);
    }
}
