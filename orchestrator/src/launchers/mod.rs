//! How workers are started: one trait, one file per way. A launcher only says which processes to start; it starts none itself, so
//! `plan` prints exactly what `launch` does.

mod local;
mod mpirun;
mod srun;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use common::backend::{Backend, Collective, Device, SHARE_GPUS};
use common::config::{ClusterConfig, LauncherKind};
use common::job::Job;

use crate::slurm::{self, Allocation, SlurmError};

/// What is to be started.
#[derive(Debug, Clone)]
pub(crate) struct LaunchSpec {
    /// The worker binary.
    pub(crate) worker: PathBuf,
    /// The binary that guards it: this one.
    pub(crate) guard: PathBuf,
    /// What the workers do.
    pub(crate) job: Job,
    /// The run's folder.
    pub(crate) run: PathBuf,
    /// The folder that everything runs in.
    pub(crate) folder: PathBuf,
    /// Workers on each host.
    pub(crate) workers_per_node: usize,
    /// What they compute on, and what connects them.
    pub(crate) backend: Backend,
    /// CPU threads of each.
    pub(crate) threads: usize,
    /// Whether this user is root, which Open MPI wants to be told.
    pub(crate) root: bool,
    /// Variables of the user's environment that workers on other hosts need too.
    pub(crate) passed: Vec<String>,
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

    /// The processes of one generation on `hosts`, in the order of the ranks; on this host if there are none.
    fn processes(&self, spec: &LaunchSpec, generation: u64, hosts: &[String]) -> Vec<ProcessSpec>;

    /// The process that asks each of `hosts` whether it sees `file`, can start the worker and has a GPU for each.
    fn probe(&self, _spec: &LaunchSpec, _hosts: &[String], _file: &Path) -> ProcessSpec {
        ProcessSpec { rank: None, program: "true".into(), arguments: Vec::new(), environment: Vec::new(), without: &[] }
    }

    /// A TCP port on which every host that can take workers answers, or at least refuses.
    fn probe_port(&self) -> u16 {
        0
    }
}

/// Why workers cannot be started as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LauncherError {
    /// No mpirun.
    #[error(
        "mpirun is not in PATH, and {world} workers need it: install Open MPI (Debian, Ubuntu: apt-get install openmpi-bin), or use \
         one worker (--workers 1); with GPUs (cluster.device = \"cuda\") NCCL takes MPI's place"
    )]
    NoMpirun {
        /// Number of workers.
        world: usize,
    },
    /// Plain child processes cannot meet in MPI.
    #[error(
        "cluster.launcher = \"local\" starts plain processes, and {world} workers that reduce by MPI need mpirun: use \"auto\" or \
         \"mpirun\", or cluster.collective = \"nccl\" on GPUs"
    )]
    LocalMpi {
        /// Number of workers.
        world: usize,
    },
    /// Plain child processes are on this host.
    #[error("cluster.launcher = \"local\" starts workers on this host alone, and cluster.nodes = {nodes}: use \"auto\"")]
    LocalNodes {
        /// Number of hosts.
        nodes: usize,
    },
    /// No srun.
    #[error("srun is not in PATH: is this a machine of a Slurm cluster?")]
    NoSrun,
    /// No ssh.
    #[error("ssh is not in PATH, and mpirun reaches cluster.hosts by it (Debian, Ubuntu: apt-get install openssh-client)")]
    NoSsh,
    /// Several hosts, and no way to reach them.
    #[error(
        "cluster.nodes = {nodes}, but there is no Slurm here (no sbatch in PATH) and cluster.hosts names no hosts: launch on a Slurm \
         machine, or name the hosts that ssh reaches (--hosts a,b,c)"
    )]
    Nodes {
        /// Number of hosts.
        nodes: usize,
    },
    /// Slurm was asked for, and is not here.
    #[error("cluster.launcher = \"slurm\", but sbatch is not in PATH: is this a machine of a Slurm cluster?")]
    NoSlurm,
    /// Slurm's tools.
    #[error(transparent)]
    Slurm(#[from] SlurmError),
    /// Fewer hosts than asked for.
    #[error(
        "cluster.nodes = {nodes}, but the allocation (Slurm job {job}) has {hosts} hosts: ask for more, or lower cluster.nodes"
    )]
    Allocation {
        /// Hosts asked for.
        nodes: usize,
        /// Hosts there are.
        hosts: usize,
        /// The job.
        job: String,
    },
}

pub(crate) use srun::{SCRIPT, script_beside};

/// The name of the job script in a run's folder.
pub(crate) const SCRIPT_NAME: &str = "train.sh";

/// The launcher in a job that was not given any hosts yet.
pub(crate) fn in_job(threads: usize) -> Box<dyn Launcher> {
    Box::new(srun::Slurm { cpus_per_node: (threads > 0).then_some(usize::MAX) })
}

/// Words as a line for a shell.
pub(crate) fn shell_line(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Where the workers of a launch run.
pub(crate) enum Where {
    /// On these hosts, or on this one if there are none, started by this process.
    Here {
        /// How.
        launcher: Box<dyn Launcher>,
        /// Where.
        hosts: Vec<String>,
        /// The allocation that they are in.
        allocation: Option<Allocation>,
    },
    /// Where Slurm will have room for them.
    Queue,
}

/// What the configuration asks for, given where this process runs. `nodes` was asked for on the command line.
pub(crate) fn choose(
    cluster: &ClusterConfig,
    collective: Collective,
    nodes: Option<usize>,
    allocation: Option<Allocation>,
) -> Result<Where, LauncherError> {
    let world = world(cluster);
    let here = |launcher: Box<dyn Launcher>| Ok(Where::Here { launcher, hosts: Vec::new(), allocation: allocation.clone() });
    let mpirun = |remote| Box::new(mpirun::Mpirun { world, remote });
    match (cluster.launcher, &allocation) {
        (LauncherKind::Local, _) if cluster.nodes > 1 => Err(LauncherError::LocalNodes { nodes: cluster.nodes }),
        (LauncherKind::Local, _) if world > 1 && collective == Collective::Mpi => Err(LauncherError::LocalMpi { world }),
        (LauncherKind::Local, _) => here(Box::new(local::Local)),
        (LauncherKind::Auto | LauncherKind::Slurm, Some(allocation)) => in_allocation(nodes, allocation.clone()),
        (LauncherKind::Auto | LauncherKind::Mpirun, None) if !cluster.hosts.is_empty() => {
            Ok(Where::Here { launcher: mpirun(true), hosts: cluster.hosts.clone(), allocation: None })
        }
        (LauncherKind::Slurm, None) if !slurm::is_here() => Err(LauncherError::NoSlurm),
        (LauncherKind::Auto, None) if cluster.nodes > 1 && !slurm::is_here() => Err(LauncherError::Nodes { nodes: cluster.nodes }),
        (LauncherKind::Slurm, None) => Ok(Where::Queue),
        (LauncherKind::Auto, None) if cluster.nodes > 1 || (nodes.is_some() && slurm::is_here()) => Ok(Where::Queue),
        (LauncherKind::Mpirun, _) if cluster.nodes > 1 => Err(LauncherError::Nodes { nodes: cluster.nodes }),
        (LauncherKind::Auto, None) if collective != Collective::Mpi => here(Box::new(local::Local)),
        (LauncherKind::Auto | LauncherKind::Mpirun, _) => here(mpirun(false)),
    }
}

fn in_allocation(nodes: Option<usize>, allocation: Allocation) -> Result<Where, LauncherError> {
    let hosts = allocation.hosts()?;
    if let Some(nodes) = nodes.filter(|nodes| *nodes > hosts.len()) {
        return Err(LauncherError::Allocation { nodes, hosts: hosts.len(), job: allocation.job });
    }
    let launcher = Box::new(srun::Slurm { cpus_per_node: allocation.cpus_per_node });
    Ok(Where::Here { launcher, hosts, allocation: Some(allocation) })
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

/// Variables that are meant for workers wherever they are: those of NCCL, and whether GPUs are shared.
pub(crate) fn passed(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.filter(|name| name.starts_with("NCCL_") || name == SHARE_GPUS).collect();
    names.sort_unstable();
    names
}

/// The command that a host answers a probe with.
fn probe_command(spec: &LaunchSpec, file: &Path) -> Vec<String> {
    let [guard, worker, file] = [&spec.guard, &spec.worker, file].map(|path| path.display().to_string());
    let mut words = vec![guard, "probe".into(), "--file".into(), file, "--worker".into(), worker];
    if spec.backend.device == Device::Cuda {
        words.extend(["--gpus".into(), spec.workers_per_node.to_string()]);
    }
    words
}

/// The arguments of the guard of each worker.
fn guard_arguments(spec: &LaunchSpec, generation: u64) -> Vec<String> {
    let (run, worker) = (spec.run.display().to_string(), spec.worker.display().to_string());
    let generation = generation.to_string();
    vec![
        "guard".into(),
        spec.job.name().into(),
        "--run-dir".into(),
        run,
        "--generation".into(),
        generation,
        "--worker".into(),
        worker,
        "--device".into(),
        spec.backend.device.name().into(),
        "--collective".into(),
        spec.backend.collective.name().into(),
    ]
}

/// The file of that name in a folder of PATH.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
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
