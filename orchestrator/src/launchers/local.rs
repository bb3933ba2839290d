//! Workers as plain child processes on this host.

use super::{LaunchSpec, Launcher, LauncherError, ProcessSpec, environment, guard_arguments};

/// Starts the workers themselves; their places are in their environment.
pub(crate) struct Local;

/// Set when the orchestrator itself was started by one of these; they would tell a worker the orchestrator's place.
const FOREIGN: &[&str] = &[
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
];

impl Launcher for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn check(&self) -> Result<(), LauncherError> {
        Ok(())
    }

    fn processes(&self, spec: &LaunchSpec, generation: u64, _hosts: &[String]) -> Vec<ProcessSpec> {
        let process = |rank: usize| {
            let mut environment = environment(spec);
            let place = [("RANK", rank), ("WORLD_SIZE", spec.workers_per_node), ("LOCAL_RANK", rank)];
            environment.extend(place.map(|(name, value)| (name, value.to_string())));
            let arguments = guard_arguments(spec, generation);
            ProcessSpec { rank: Some(rank), program: spec.guard.clone(), arguments, environment, without: FOREIGN }
        };
        (0..spec.workers_per_node).map(process).collect()
    }
}
