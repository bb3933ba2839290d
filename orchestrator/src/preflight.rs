//! What can be known to fail before anything is started or written: a worker that does not run, a data set that is not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::backend::{self, Backend, Collective, Device};
use common::config::{Config, ConfigError, EditImage, compose_tasks, edit_tasks};
use common::job::Job;
use common::place::{host_name, same_host};
use common::shards::{Dataset, NoLabels, NoScalingFactor, ShardError, object_labels, scaling_factor};
use common::storage::{Pattern, StorageError, Store};

use crate::launchers::{LaunchSpec, Launcher, ProcessSpec};

/// The environment variable that names another worker binary.
pub(crate) const WORKER_VARIABLE: &str = "LSD_WORKER";

/// How long hosts may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// Why a launch would fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    /// The worker binary cannot be started.
    #[error("cannot start the worker {}: {source}; build it with `cargo build --release`, or name it in {WORKER_VARIABLE}", path.display())]
    NoWorker {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The dynamic loader gave up on it.
    #[error(
        "the worker {} cannot find the library {library}{hint}: run `make setup`, or add the folder that holds it to LD_LIBRARY_PATH",
        path.display()
    )]
    Library {
        /// The worker.
        path: PathBuf,
        /// The library.
        library: String,
        /// Whose library that is.
        hint: &'static str,
    },
    /// It ran and failed.
    #[error("the worker {} does not work: `worker --version` ended with {end}: {said}", path.display())]
    Broken {
        /// The worker.
        path: PathBuf,
        /// How it ended.
        end: std::process::ExitStatus,
        /// The last line it wrote.
        said: String,
    },
    /// Built from other sources.
    #[error("the worker {} is of version {worker}, this orchestrator of version {orchestrator}: build both from one source", path.display())]
    Version {
        /// The worker.
        path: PathBuf,
        /// Its version.
        worker: String,
        /// Ours.
        orchestrator: &'static str,
    },
    /// Hosts that cannot take part.
    #[error("{problems}{}", if *more > 0 { format!(" (and {more} other hosts)") } else { String::new() })]
    Hosts {
        /// The first of them and what is wrong with it.
        problems: String,
        /// How many others.
        more: usize,
    },
    /// A folder that only this host can have.
    #[error("{} is in the memory of this host ({kind}), where other hosts cannot see it: set run.root to a folder on a shared disk", folder.display())]
    NotShared {
        /// The folder.
        folder: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A data set that the job reads.
    #[error(transparent)]
    Data(#[from] ShardError),
    /// A configuration without `[import]`.
    #[error("there is nothing to import: the configuration has no table [import] with layout and source")]
    NothingToImport,
    /// The data set to import.
    #[error("import.source: {} does not exist", path.display())]
    NoSource {
        /// Where it should be.
        path: PathBuf,
    },
    /// Objects that are nowhere to be seen.
    #[error("{url}: there are no masks in this data set, and {job} needs them; docs/data.md says which data sets have them")]
    NoMasks {
        /// The data set.
        url: String,
        /// The job.
        job: Job,
    },
    /// A network to judge scenes by that is not there.
    #[error("fid.weights: there is no file {}; docs/gallery.md has the command that makes it", path.display())]
    NoInception {
        /// Where it should be.
        path: PathBuf,
    },
    /// Objects that nothing is said about.
    #[error(transparent)]
    Labels(#[from] NoLabels),
    /// Latents that cannot be scaled.
    #[error(transparent)]
    Scale(#[from] NoScalingFactor),
    /// What is to be edited or composed.
    #[error(transparent)]
    Recipes(#[from] ConfigError),
    /// An image file to edit.
    #[error("{key}: there is no picture {}", path.display())]
    NoPicture {
        /// The recipe.
        key: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A URL in the configuration.
    #[error(transparent)]
    Url(#[from] StorageError),
    /// Not even one step's worth of samples.
    #[error("{key} = {batch}, but {url} holds {rows} samples: lower it, or write a larger data set")]
    FewerThanOneBatch {
        /// The key of the batch size.
        key: &'static str,
        /// Its value.
        batch: usize,
        /// The data set.
        url: String,
        /// Samples that it has.
        rows: u64,
    },
}

/// The worker binary: the one in `LSD_WORKER`, else the one beside this program.
pub(crate) fn find_worker() -> PathBuf {
    if let Some(path) = std::env::var_os(WORKER_VARIABLE) {
        return path.into();
    }
    let here = std::env::current_exe().unwrap_or_default();
    here.with_file_name("worker")
}

/// Runs `worker --version` and compares. Returns the git revision that the worker was built from, if it knows.
pub(crate) fn check_worker(path: &Path) -> Result<Option<String>, PreflightError> {
    let output = Command::new(path).arg("--version").output();
    let output = output.map_err(|source| PreflightError::NoWorker { path: path.into(), source })?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if let Some(library) = missing_library(&err) {
        let hint = if ["libtorch", "libc10"].iter().any(|start| library.starts_with(start)) { " (libtorch)" } else { "" };
        return Err(PreflightError::Library { path: path.into(), library: library.into(), hint });
    }
    if !output.status.success() {
        let said = err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        return Err(PreflightError::Broken { path: path.into(), end: output.status, said });
    }
    // worker 0.1.0 (0123456789ab)
    let (mut words, orchestrator) = (out.split_whitespace().skip(1), env!("CARGO_PKG_VERSION"));
    let worker = words.next().unwrap_or("unknown");
    if worker != orchestrator {
        return Err(PreflightError::Version { path: path.into(), worker: worker.into(), orchestrator });
    }
    Ok(words.next().map(|revision| revision.trim_matches(['(', ')']).to_owned()))
}

/// The library in the dynamic loader's complaint `PROGRAM: error while loading shared libraries: LIBRARY: cannot open ...`.
fn missing_library(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("error while loading shared libraries: ")?;
    rest.split_once(':').map(|(library, _)| library)
}

/// Opens what the job will read; manifests and file sizes are checked, contents are not.
pub(crate) async fn check_data(config: &Config, job: Job) -> Result<(), PreflightError> {
    let (images, latents) = (&config.data.images, &config.data.latents);
    match job {
        Job::Scenes => Ok(()),
        Job::Import => check_source(config),
        Job::Encode => check_split(images, "train", None).await.map(drop),
        Job::Autoencoder => {
            let batch = config.autoencoder.train.global_batch;
            check_split(images, "train", Some(("autoencoder.train.global_batch", batch))).await.map(drop)
        }
        Job::Train => {
            if config.train.evaluation.every_steps > 0 {
                check_split(latents, "validation", None).await?;
            }
            let train = check_split(latents, "train", Some(("train.global_batch", config.train.global_batch))).await?;
            scaling_factor(config.autoencoder.scaling_factor, &train)?;
            Ok(())
        }
        Job::Evaluate => check_masks(&open_split(latents, "validation").await?, job),
        Job::Probe => {
            let dataset = open_split(latents, config.probe.split.name()).await?;
            object_labels(&dataset)?;
            check_masks(&dataset, job)
        }
        Job::Concepts => check_split(latents, "train", None).await.map(drop),
        Job::Compose => check_scenes(config).await,
        Job::Edit => check_recipes(config).await,
    }
}

async fn open_split(url: &str, split: &str) -> Result<Dataset, PreflightError> {
    Ok(Dataset::open(Store::open(url)?.child(split), 0).await?)
}

/// Whether the data set says where the objects in its images are, which `job` has to know.
fn check_masks(dataset: &Dataset, job: Job) -> Result<(), PreflightError> {
    match dataset.manifest().schema.column("mask") {
        Some(_) => Ok(()),
        None => Err(PreflightError::NoMasks { url: dataset.url().to_owned(), job }),
    }
}

/// Whether all that is to be edited is there.
async fn check_recipes(config: &Config) -> Result<(), PreflightError> {
    let split = config.edit.as_ref().map(|edit| edit.split).unwrap_or_default();
    let dataset = open_split(&config.data.latents, split.name()).await?;
    for task in edit_tasks(config, dataset.rows())? {
        for image in task.images() {
            match image {
                EditImage::File(path) if !Path::new(path).is_file() => {
                    return Err(PreflightError::NoPicture { key: task.key.clone(), path: path.into() });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether all that scenes are to be composed from is there.
async fn check_scenes(config: &Config) -> Result<(), PreflightError> {
    check_split(&config.data.latents, "train", None).await?;
    let split = config.compose.as_ref().map(|compose| compose.split).unwrap_or_default();
    let dataset = open_split(&config.data.latents, split.name()).await?;
    compose_tasks(config, dataset.rows())?;
    match config.fid.as_ref().map(|fid| Store::open(&fid.weights)).transpose()?.and_then(|weights| weights.local_path()) {
        Some(path) if !path.is_file() => Err(PreflightError::NoInception { path }),
        _ => Ok(()),
    }
}

/// Whether there is something to import, as far as that is known at no cost.
fn check_source(config: &Config) -> Result<(), PreflightError> {
    let import = config.import.as_ref().ok_or(PreflightError::NothingToImport)?;
    match Store::open(&import.source)?.local_path() {
        Some(path) if !path.exists() && Pattern::split(&import.source).is_none() => Err(PreflightError::NoSource { path }),
        _ => Ok(()),
    }
}

async fn check_split(url: &str, split: &str, batch: Option<(&'static str, usize)>) -> Result<Dataset, PreflightError> {
    let dataset = open_split(url, split).await?;
    let rows = dataset.rows();
    match batch {
        Some((key, batch)) if rows < batch as u64 => {
            Err(PreflightError::FewerThanOneBatch { key, batch, url: format!("{url}/{split}"), rows })
        }
        _ => Ok(dataset),
    }
}

/// Refuses a folder for runs that other hosts certainly do not see.
pub(crate) fn check_shared(root: &Path) -> Result<(), PreflightError> {
    let existing = root.ancestors().find(|folder| folder.exists() && !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kind = nix::sys::statfs::statfs(existing).ok().map(|info| info.filesystem_type());
    if kind == Some(nix::sys::statfs::TMPFS_MAGIC) {
        return Err(PreflightError::NotShared { folder: existing.into(), kind: "tmpfs" });
    }
    Ok(())
}

/// Asks every host, through the launcher, whether it sees the folder of runs and can start the worker. Nothing but a file that is taken
/// away again comes into being.
pub(crate) fn check_hosts(launcher: &dyn Launcher, spec: &LaunchSpec, hosts: &[String], root: &Path) -> Result<(), PreflightError> {
    if hosts.len() < 2 {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PreflightError::Io { path, source }
    };
    fs::create_dir_all(root).map_err(failed(root))?;
    let file = std::path::absolute(root).map_err(failed(root))?.join(format!(".probe-{}", std::process::id()));
    fs::write(&file, []).map_err(failed(&file))?;
    let answers = ask(&launcher.probe(spec, hosts, &file));
    // Whatever the answers are.
    let _ = fs::remove_file(&file);
    let problems = judge(hosts, &answers.map_err(failed(Path::new("srun or mpirun")))?);
    match problems.split_first() {
        None => Ok(()),
        Some((first, others)) => Err(PreflightError::Hosts { problems: first.clone(), more: others.len() }),
    }
}

/// Runs the probe, within a time limit; what it printed.
fn ask(process: &ProcessSpec) -> std::io::Result<String> {
    let mut command = Command::new(&process.program);
    command.args(&process.arguments).envs(process.environment.iter().map(|(name, value)| (name, value)));
    for name in process.without {
        command.env_remove(name);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let said: Vec<_> = [child.stdout.take().map(collect), child.stderr.take().map(collect)].into_iter().flatten().collect();
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > PROBE_LIMIT {
            child.kill()?;
            child.wait()?;
            break;
        }
        sleep(Duration::from_millis(5));
    }
    Ok(said.into_iter().map(|thread| thread.join().unwrap_or_default()).collect())
}

fn collect(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// One sentence for every host that said no or nothing, from lines as `probe HOST ok` or `probe HOST no: REASON`.
fn judge(hosts: &[String], answers: &str) -> Vec<String> {
    let lines = || answers.lines().filter_map(|line| line.split_once("probe ")?.1.split_once(' '));
    let mut problems: Vec<String> =
        lines().filter_map(|(host, word)| Some(format!("host {host}: {}", word.strip_prefix("no: ")?))).collect();
    let answered = lines().count();
    let silent: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|host| !lines().any(|(name, _)| same_host(name, host))).collect();
    // Names may differ from what the hosts call themselves; then only their number counts.
    if answered < hosts.len() && !silent.is_empty() {
        let limit = PROBE_LIMIT.as_secs();
        let said = answers.lines().rfind(|line| !line.trim().is_empty() && !line.contains("probe ")).unwrap_or("nothing");
        problems.push(format!("no answer from {} within {limit} s; the launcher said: {said}", silent.join(", ")));
    }
    problems
}

/// The answer of one host, which has to have `gpus` GPUs if that is not 0.
pub(crate) fn answer_probe(file: &Path, worker: &Path, gpus: usize) -> Result<ExitCode, crate::exit::Failure> {
    let host = host_name();
    let no = |reason: String| {
        println!("probe {host} no: {reason}");
        Ok(ExitCode::SUCCESS)
    };
    if !file.is_file() {
        let folder = file.parent().unwrap_or(file).display();
        return no(format!(
            "it does not see the folder of runs, {folder}: set run.root to a folder on a disk that all hosts share"
        ));
    }
    if let Err(error) = check_worker(worker) {
        return no(error.to_string());
    }
    let device = if gpus > 0 { Device::Cuda } else { Device::Cpu };
    let backend = Backend { device, collective: Collective::Nccl };
    if let Err(error) = backend.check_gpus(&host, gpus, backend::gpus_of_this_host(), backend::gpus_are_shared()) {
        return no(error.to_string());
    }
    println!("probe {host} ok");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_say_no_or_nothing_are_named() {
        let hosts = ["node1", "node2", "node3"].map(str::to_owned);
        assert_eq!(judge(&hosts, "probe node1 ok\nprobe node3 ok\nprobe node2 ok\n"), [] as [String; 0]);
        let problems = judge(&hosts, "probe node1 ok\nprobe node2 no: it has no disk\nsrun: error: node3: timed out\n");
        assert_eq!(problems[0], "host node2: it has no disk");
        assert!(problems[1].starts_with("no answer from node3 within") && problems[1].ends_with("srun: error: node3: timed out"));
        assert_eq!(judge(&hosts[..2], "probe alias-a ok\nprobe alias-b ok\n"), [] as [String; 0]);
    }

    #[test]
    fn the_loader_s_complaint_names_the_library() {
        let complaint =
            "/x/worker: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such file";
        assert_eq!(missing_library(complaint), Some("libtorch_cpu.so"));
        assert_eq!(missing_library("error: no such job"), None);
    }
}
