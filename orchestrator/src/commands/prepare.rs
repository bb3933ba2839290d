//! What `launch` and `plan` have in common: from arguments to a run that is known to be possible, with nothing changed on disk.

use common::config::{Config, load};
use common::job::Job;
use common::run_dir::RunDir;

use crate::cli::RunArguments;
use crate::exit::{Failure, OrBadInput};
use crate::launchers::{self, LaunchSpec, Launcher};
use crate::preflight;
use crate::run_folder::{self, FolderError, Intent};

/// A run that may be launched.
pub(crate) struct Prepared {
    /// The resolved configuration.
    pub(crate) config: Config,
    /// What the workers do.
    pub(crate) job: Job,
    /// The run's folder.
    pub(crate) run: RunDir,
    /// What is to become of what the folder holds.
    pub(crate) intent: Intent,
    /// How workers are started.
    pub(crate) launcher: Box<dyn Launcher>,
    /// Which workers.
    pub(crate) spec: LaunchSpec,
}

/// Resolves the configuration and checks folder and launcher.
pub(crate) fn prepare(arguments: &RunArguments) -> Result<Prepared, Failure> {
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.workers.map(|workers| format!("cluster.workers_per_node={workers}")));
    let (config, run, intent) = match (&arguments.config, &arguments.resume) {
        (_, Some(folder)) => {
            let run = RunDir::new(folder);
            if !run.run_toml().is_file() {
                return Err(FolderError::NoRun { folder: folder.clone() }).or_bad_input();
            }
            (load::from_file(&run.run_toml(), &overrides).or_bad_input()?, run, Intent::Resume)
        }
        (Some(file), None) => {
            let config = load::from_file(file, &overrides).or_bad_input()?;
            let run = RunDir::new(std::path::Path::new(&config.run.root).join(&config.run.name));
            (config, run, if arguments.fresh { Intent::Fresh } else { Intent::New })
        }
        (None, None) => return Err(Failure::bad_input("either --config or --resume is needed")),
    };
    let job = arguments.job;
    run_folder::check(&run, &config, job, intent).or_bad_input()?;
    let launcher = launchers::choose(&config.cluster).or_bad_input()?;
    launcher.check().or_bad_input()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spec = LaunchSpec {
        worker: preflight::find_worker(),
        job,
        run: run.path().into(),
        world: launchers::world(&config.cluster),
        threads: launchers::threads(&config.cluster, cores),
        root: nix::unistd::geteuid().is_root(),
    };
    Ok(Prepared { config, job, run, intent, launcher, spec })
}
