//! Workers under Open MPI's `mpirun`, on this host or, over ssh, on a list of hosts.

use std::path::Path;

use super::{LaunchSpec, Launcher, LauncherError, ProcessSpec, environment, guard_arguments, in_path, probe_command};

/// Starts all workers through one `mpirun`.
pub(crate) struct Mpirun {
    /// Number of workers.
    pub(crate) world: usize,
    /// Whether the workers are on other hosts too.
    pub(crate) remote: bool,
}

impl Launcher for Mpirun {
    fn name(&self) -> &'static str {
        "mpirun"
    }

    fn check(&self) -> Result<(), LauncherError> {
        if self.remote && in_path("ssh").is_none() {
            return Err(LauncherError::NoSsh);
        }
        in_path("mpirun").map(|_| ()).ok_or(LauncherError::NoMpirun { world: self.world })
    }

    fn processes(&self, spec: &LaunchSpec, generation: u64, hosts: &[String]) -> Vec<ProcessSpec> {
        let workers = spec.workers_per_node;
        let mut arguments: Vec<String> = vec!["-np".into(), (hosts.len().max(1) * workers).to_string()];
        let environment = environment(spec);
        if !hosts.is_empty() {
            let slots: Vec<String> = hosts.iter().map(|host| format!("{host}:{workers}")).collect();
            arguments.extend(["--host".into(), slots.join(","), "--map-by".into(), format!("ppr:{workers}:node")]);
            // Otherwise ssh and this host's own daemon would disagree about names with dots.
            arguments.extend(["--mca", "orte_keep_fqdn_hostnames", "1"].map(str::to_owned));
            arguments.extend(["--wdir".into(), spec.folder.display().to_string()]);
            let names = environment.iter().map(|(name, _)| *name).chain(["LD_LIBRARY_PATH", common::rehearsal::VARIABLE]);
            for name in names.chain(spec.passed.iter().map(String::as_str)) {
                arguments.extend(["-x".into(), name.into()]);
            }
        }
        // By default each of two ranks is bound to one core, which its threads would then share.
        arguments.extend(["--bind-to".into(), "none".into()]);
        // mpirun counts physical cores; more ranks than these are refused without this, and only then does it change anything.
        arguments.push("--oversubscribe".into());
        if spec.root {
            arguments.push("--allow-run-as-root".into());
        }
        arguments.push(spec.guard.display().to_string());
        arguments.extend(guard_arguments(spec, generation));
        vec![ProcessSpec { rank: None, program: "mpirun".into(), arguments, environment, without: &[] }]
    }

    fn probe(&self, spec: &LaunchSpec, hosts: &[String], file: &Path) -> ProcessSpec {
        let mut arguments: Vec<String> = vec!["-np".into(), hosts.len().to_string(), "--host".into(), hosts.join(",")];
        arguments
            .extend(["--map-by", "ppr:1:node", "--bind-to", "none", "--mca", "orte_keep_fqdn_hostnames", "1"].map(str::to_owned));
        for name in ["LD_LIBRARY_PATH"].into_iter().chain(spec.passed.iter().map(String::as_str)) {
            arguments.extend(["-x".into(), name.into()]);
        }
        if spec.root {
            arguments.push("--allow-run-as-root".into());
        }
        arguments.extend(probe_command(spec, file));
        ProcessSpec { rank: None, program: "mpirun".into(), arguments, environment: Vec::new(), without: &[] }
    }

    fn probe_port(&self) -> u16 {
        // sshd's.
        22
    }
}
