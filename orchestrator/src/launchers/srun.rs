//! Workers under `srun`, inside of an allocation.

use std::path::Path;

use common::backend::Collective;

use super::{LaunchSpec, Launcher, LauncherError, ProcessSpec, environment, guard_arguments, in_path, probe_command};

/// Options of the batch job that srun would take for its own.
const BATCH: &[&str] = &["SLURM_CPUS_PER_TASK", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_DISTRIBUTION"];

/// Starts all workers through one `srun`.
pub(crate) struct Slurm {
    /// CPUs that the allocation has on each host.
    pub(crate) cpus_per_node: Option<usize>,
}

impl Launcher for Slurm {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn check(&self) -> Result<(), LauncherError> {
        in_path("srun").map(|_| ()).ok_or(LauncherError::NoSrun)
    }

    fn processes(&self, spec: &LaunchSpec, generation: u64, hosts: &[String]) -> Vec<ProcessSpec> {
        let world = hosts.len() * spec.workers_per_node;
        let mut arguments = vec![
            format!("--nodes={}", hosts.len()),
            format!("--ntasks={world}"),
            format!("--ntasks-per-node={}", spec.workers_per_node),
            format!("--nodelist={}", hosts.join(",")),
            // Rank by rank over the hosts in their order, as the supervisor believes.
            "--distribution=block".into(),
            // Threads are counted out by the configuration; binding would put them all on one core.
            "--cpu-bind=none".into(),
            // The step before may still be on its way out, on a host that does not answer for minutes.
            "--overlap".into(),
            // The coordinator decides what a lost rank or host means.
            "--no-kill".into(),
            "--kill-on-bad-exit=0".into(),
            "--wait=0".into(),
            "--input=none".into(),
        ];
        match self.cpus_per_node {
            // Fewer CPUs than workers: Slurm starts them only if told that they share.
            Some(cpus) if cpus < spec.workers_per_node => arguments.push("--overcommit".into()),
            _ => arguments.push(format!(
                "--cpus-per-task={}",
                spec.threads.min(self.cpus_per_node.map_or(1, |cpus| cpus / spec.workers_per_node))
            )),
        }
        // NCCL needs no MPI, and many clusters have no PMIx.
        arguments.push(if spec.backend.collective == Collective::Mpi { "--mpi=pmix" } else { "--mpi=none" }.into());
        arguments.push(spec.guard.display().to_string());
        arguments.extend(guard_arguments(spec, generation));
        vec![ProcessSpec { rank: None, program: "srun".into(), arguments, environment: environment(spec), without: BATCH }]
    }

    fn probe(&self, spec: &LaunchSpec, hosts: &[String], file: &Path) -> ProcessSpec {
        let mut arguments = vec![
            format!("--nodes={}", hosts.len()),
            format!("--ntasks={}", hosts.len()),
            "--ntasks-per-node=1".into(),
            format!("--nodelist={}", hosts.join(",")),
            "--overlap".into(),
            "--no-kill".into(),
            "--cpu-bind=none".into(),
            "--input=none".into(),
            "--mpi=none".into(),
        ];
        arguments.extend(probe_command(spec, file));
        ProcessSpec { rank: None, program: "srun".into(), arguments, environment: Vec::new(), without: BATCH }
    }

    fn probe_port(&self) -> u16 {
        // slurmd's.
        6818
    }
}

/// The script that `launch` hands to sbatch when it is not found beside the binary.
pub(crate) const SCRIPT: &str = include_str!("../../../slurm/train.sh");

/// The job script: in the checkout that this binary was built in, else nowhere.
pub(crate) fn script_beside(binary: &Path) -> Option<std::path::PathBuf> {
    let checkout = binary.ancestors().nth(3)?;
    let script = checkout.join("slurm/train.sh");
    script.is_file().then_some(script)
}
