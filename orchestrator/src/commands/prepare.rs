//! What `launch` and `plan` have in common: from arguments to a run that is known to be possible, with nothing changed on disk.

use std::path::{Path, PathBuf};

use common::backend::{self, Backend, BackendError, Collective};
use common::config::{ClusterConfig, Config, load, validate};
use common::job::Job;
use common::journal;
use common::place::{host_name, same_host};
use common::run_dir::RunDir;

use crate::cli::RunArguments;
use crate::exit::{Failure, OrBadInput};
use crate::launchers::{self, LaunchSpec, Where};
use crate::preflight;
use crate::run_folder::{self, FolderError, Intent};
use crate::slurm::{self, Allocation, Submission};
use crate::story::{InCharge, Outline};

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
    /// Where and how workers are started.
    pub(crate) place: Where,
    /// Which workers.
    pub(crate) spec: LaunchSpec,
}

/// Resolves the configuration and checks folder and launcher.
pub(crate) fn prepare(arguments: &RunArguments) -> Result<Prepared, Failure> {
    let (mut config, run, wish) = resolve(arguments)?;
    let job = arguments.job;
    let allocation = Allocation::here();
    let intent = settle(&run.job_dir(job), wish, allocation.as_ref())?;
    run_folder::check(&run, &config, job, intent, allocation.is_some()).or_bad_input()?;
    // What cannot be is refused below, when it is known where the workers will be.
    let collective = backend(&config.cluster, backend::gpus_of_this_host()).map_or(Collective::Mpi, |backend| backend.collective);
    let place = launchers::choose(&config.cluster, collective, arguments.nodes, allocation).or_bad_input()?;
    if let Where::Here { hosts, allocation: Some(_), .. } = &place
        && !hosts.is_empty()
    {
        // All that there are, unless the command line says otherwise: then the others are spares.
        config.cluster.nodes = arguments.nodes.unwrap_or(hosts.len());
        config.cluster.min_nodes = config.cluster.min_nodes.min(config.cluster.nodes);
        validate::check(&config).or_bad_input()?;
    }
    let backend = settle_backend(&config.cluster, &place).or_bad_input()?;
    if let Where::Here { launcher, .. } = &place {
        launcher.check().or_bad_input()?;
    }
    let spec = spec(&config, job, &run, &place, backend)?;
    Ok(Prepared { config, job, run, intent, place, spec })
}

fn backend(cluster: &ClusterConfig, gpus: usize) -> Result<Backend, BackendError> {
    Backend::resolve(cluster, launchers::world(cluster), || gpus)
}

/// Device and collective, once it is known where the workers will be. This host's GPUs are counted against its workers if it has any.
fn settle_backend(cluster: &ClusterConfig, place: &Where) -> Result<Backend, BackendError> {
    let Where::Here { hosts, .. } = place else {
        // The job's first host decides; until then what the job asks for is all that is known. A login node's own GPUs do not count.
        let gpus = slurm::gpus_per_node(cluster);
        let backend = backend(cluster, gpus)?;
        backend.check_asked_gpus(cluster.workers_per_node, gpus, backend::gpus_are_shared())?;
        return Ok(backend);
    };
    let gpus = backend::gpus_of_this_host();
    let backend = backend(cluster, gpus)?;
    let own = host_name();
    if hosts.is_empty() || hosts.iter().take(cluster.nodes).any(|host| same_host(host, &own)) {
        backend.check_gpus(&own, cluster.workers_per_node, gpus, backend::gpus_are_shared())?;
    }
    Ok(backend)
}

/// The configuration and the folder that the arguments name, and what the user wants with it.
pub(crate) fn resolve(arguments: &RunArguments) -> Result<(Config, RunDir, Intent), Failure> {
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.nodes.map(|nodes| format!("cluster.nodes={nodes}")));
    overrides.extend(arguments.workers.map(|workers| format!("cluster.workers_per_node={workers}")));
    overrides.extend(arguments.profile.map(|steps| format!("train.profile_steps={steps}")));
    if !arguments.hosts.is_empty() {
        let names: Vec<String> = arguments.hosts.iter().map(|host| format!("{host:?}")).collect();
        overrides.push(format!("cluster.hosts=[{}]", names.join(", ")));
        if arguments.nodes.is_none() {
            overrides.push(format!("cluster.nodes={}", names.len()));
        }
    }
    match (&arguments.config, &arguments.resume) {
        (_, Some(folder)) => {
            let run = RunDir::new(folder);
            if !run.run_toml().is_file() {
                return Err(FolderError::NoRun { folder: folder.clone() }).or_bad_input();
            }
            Ok((load::from_file(&run.run_toml(), &overrides).or_bad_input()?, run, Intent::Resume))
        }
        (Some(file), None) => {
            let config = load::from_file(file, &overrides).or_bad_input()?;
            let run = RunDir::new(Path::new(&config.run.root).join(&config.run.name));
            Ok((config, run, if arguments.fresh { Intent::Fresh } else { Intent::New }))
        }
        (None, None) => Err(Failure::bad_input("either --config or --resume is needed")),
    }
}

/// What is to become of the folder, given the Slurm job that its journal leaves in charge: that very job goes on with what it began, any
/// other one that Slurm still knows keeps the run.
fn settle(folder: &RunDir, wish: Intent, allocation: Option<&Allocation>) -> Result<Intent, Failure> {
    let entries = journal::read(&folder.journal()).or_bad_input()?;
    let Some(InCharge { job, launched }) = Outline::of(&entries).in_charge() else { return Ok(wish) };
    if allocation.is_some_and(|allocation| allocation.job == job) {
        return Ok(Intent::Resume);
    }
    // Where there is no Slurm, or it does not answer, its jobs cannot be in the way.
    match slurm::queue_state(&job) {
        Ok(Some(state)) => Err(FolderError::Queued { folder: folder.path().into(), job, state, launched }).or_bad_input(),
        Ok(None) | Err(_) => Ok(wish),
    }
}

fn spec(config: &Config, job: Job, run: &RunDir, place: &Where, backend: Backend) -> Result<LaunchSpec, Failure> {
    let cluster = &config.cluster;
    let folder = std::env::current_dir()?;
    let several = !matches!(place, Where::Here { hosts, .. } if hosts.is_empty());
    // Other hosts may start in another folder.
    let absolute = |path: PathBuf| if several { folder.join(path) } else { path };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = match place {
        Where::Here { allocation: Some(allocation), .. } => allocation.cpus_per_node.unwrap_or(cores),
        _ => cores,
    };
    Ok(LaunchSpec {
        worker: absolute(preflight::find_worker()),
        guard: std::env::current_exe()?,
        job,
        run: absolute(run.path().into()),
        workers_per_node: cluster.workers_per_node,
        backend,
        threads: launchers::threads(cluster, cores),
        root: nix::unistd::geteuid().is_root(),
        passed: launchers::passed(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())),
        folder,
    })
}

/// The Slurm job that a launch from a login node becomes.
pub(crate) fn submission(prepared: &Prepared, arguments: &RunArguments) -> Result<Submission, Failure> {
    let Prepared { config, job, run, .. } = prepared;
    let mut passed: Vec<String> = match (&arguments.config, &arguments.resume) {
        (_, Some(folder)) => vec!["--resume".into(), folder.display().to_string()],
        (Some(file), None) => vec!["--config".into(), file.display().to_string()],
        (None, None) => Vec::new(),
    };
    passed.extend(arguments.overrides.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
    passed.extend(["--job".into(), job.name().into()]);
    passed.extend(arguments.workers.iter().flat_map(|workers| ["--workers".to_owned(), workers.to_string()]));
    passed.extend(arguments.nodes.iter().flat_map(|nodes| ["--nodes".to_owned(), nodes.to_string()]));
    slurm_job(config, *job, run, passed)
}

/// The Slurm job that goes on with a run when the job `after` has ended.
pub(crate) fn continuation(config: &Config, job: Job, run: &RunDir, after: &str) -> Result<Submission, Failure> {
    let passed = vec!["--resume".into(), run.path().display().to_string(), "--job".into(), job.name().into()];
    let mut submission = slurm_job(config, job, run, passed)?;
    submission.options.push(format!("--dependency=afterany:{after}"));
    Ok(submission)
}

fn slurm_job(config: &Config, job: Job, run: &RunDir, arguments: Vec<String>) -> Result<Submission, Failure> {
    let binary = std::env::current_exe()?;
    let folder = run.job_dir(job);
    let script = launchers::script_beside(&binary).unwrap_or_else(|| folder.path().join(launchers::SCRIPT_NAME));
    let output = folder.path().join("slurm-%j.out").display().to_string();
    // A login node's cores say nothing about the hosts'.
    let threads = config.cluster.threads_per_worker.max(1);
    let name = match job {
        Job::Train => format!("lsd-{}", config.run.name),
        other => format!("lsd-{}-{other}", config.run.name),
    };
    let mut options = slurm::sbatch_arguments(&config.cluster, &name, &output, threads);
    options.push(format!("--export=ALL,LSD_ORCHESTRATOR={}", binary.display()));
    Ok(Submission { options, script: script.display().to_string(), arguments })
}
