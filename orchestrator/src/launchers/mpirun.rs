//! Workers under Open MPI's `mpirun`, on this host.

use super::{LaunchSpec, Launcher, LauncherError, ProcessSpec, environment, in_path, worker_arguments};

/// Starts all workers through one `mpirun`.
pub(crate) struct Mpirun {
    /// Number of workers.
    pub(crate) world: usize,
}

impl Launcher for Mpirun {
    fn name(&self) -> &'static str {
        "mpirun"
    }

    fn check(&self) -> Result<(), LauncherError> {
        in_path("mpirun").map(|_| ()).ok_or(LauncherError::NoMpirun { world: self.world })
    }

    fn processes(&self, spec: &LaunchSpec, generation: u64) -> Vec<ProcessSpec> {
        let mut arguments: Vec<String> = vec!["-np".into(), spec.world.to_string()];
        // By default each of two ranks is bound to one core, which its threads would then share.
        arguments.extend(["--bind-to".into(), "none".into()]);
        // mpirun counts physical cores; more ranks than these are refused without this, and only then does it change anything.
        arguments.push("--oversubscribe".into());
        if spec.root {
            arguments.push("--allow-run-as-root".into());
        }
        arguments.push(spec.worker.display().to_string());
        arguments.extend(worker_arguments(spec, generation));
        let environment = environment(spec);
        vec![ProcessSpec { rank: None, program: "mpirun".into(), arguments, environment, without: &[] }]
    }
}
