//! Whether a launch may have a folder: it must be new, or hold the same run; and nobody else may be using it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::config::{Config, config_hash, load};
use common::job::Job;
use common::journal::{self, Journal, JournalError};
use common::run_dir::{RunDir, replace_file};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

/// How long the lock of somebody who is about to end is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a launch may not have the folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// `--resume` of nothing.
    #[error("{} holds no run (there is no run.toml): start one with --config", folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
    },
    /// Another run.
    #[error("{} already holds a different run: {key} is {old} there and {new} here; choose another run.name, or put it aside with --fresh", folder.display())]
    Different {
        /// The folder.
        folder: PathBuf,
        /// The first key that tells the two apart.
        key: String,
        /// Its value in the folder.
        old: String,
        /// Its value in this launch.
        new: String,
    },
    /// The same run, but nobody said that it should go on.
    #[error("{0} already holds this run: go on with `orchestrator launch --resume {0}`, or put it aside with --fresh", folder.display())]
    Same {
        /// The folder.
        folder: PathBuf,
    },
    /// Somebody's files.
    #[error("{} exists and holds no run (there is no run.toml but there is {found}): choose another run.name", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// One of the files.
        found: String,
    },
    /// A Slurm job has it.
    #[error("{} belongs to Slurm job {job}, which is {}: {} it first, or wait for it", folder.display(), state.to_lowercase(),
        if *launched { "`orchestrator stop`" } else { "`scancel`" })]
    Queued {
        /// The folder.
        folder: PathBuf,
        /// The job.
        job: String,
        /// Its state in Slurm's words.
        state: String,
        /// Whether it has started.
        launched: bool,
    },
    /// Another coordinator.
    #[error("{} is in use by another orchestrator{}: wait for it, or stop it first", folder.display(), pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Its process id, as far as known.
        pid: Option<u32>,
    },
    /// The configuration in the folder.
    #[error(transparent)]
    Config(#[from] common::config::ConfigError),
    /// The journal in the folder.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What a launch wants with a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// A new run; an existing one is refused.
    New,
    /// Go on with what is there.
    Resume,
    /// Put aside what is there.
    Fresh,
}

/// Looks, without changing anything, whether `config` may run as `job` in `run`.
///
/// With `patient` a lock is waited for, for some seconds: who submitted the job may still hold it, or the coordinator before this one.
pub(crate) fn check(run: &RunDir, config: &Config, job: Job, intent: Intent, patient: bool) -> Result<(), FolderError> {
    let folder = run.job_dir(job);
    let asked = Instant::now();
    loop {
        match lock_existing(&folder) {
            Err(FolderError::InUse { .. }) if patient && asked.elapsed() < PATIENCE => sleep(LOOK_AGAIN),
            other => break drop(other?),
        }
    }
    if intent == Intent::Fresh {
        return Ok(());
    }
    let holds_run = run.run_toml().is_file();
    match job {
        // These write data sets and weights that lie elsewhere and vouch for themselves.
        Job::Scenes | Job::Import | Job::Autoencoder | Job::Encode => {}
        Job::Evaluate | Job::Probe | Job::Concepts | Job::Compose | Job::Edit | Job::Train if holds_run => same_run(run, config)?,
        Job::Evaluate | Job::Probe | Job::Concepts | Job::Compose | Job::Edit => {
            return Err(FolderError::NoRun { folder: run.path().into() });
        }
        Job::Train => nothing_foreign(run)?,
    }
    if job == Job::Train && holds_run && intent == Intent::New {
        return Err(FolderError::Same { folder: run.path().into() });
    }
    Ok(())
}

/// Refuses a folder whose run would end in other weights than this one.
fn same_run(run: &RunDir, config: &Config) -> Result<(), FolderError> {
    let there = load::from_file(&run.run_toml(), &[])?;
    match difference(&there, config) {
        Some((key, old, new)) => Err(FolderError::Different { folder: run.path().into(), key, old, new }),
        None => Ok(()),
    }
}

/// The first key that makes `new` another run than `old`, with both values.
pub(crate) fn difference(old: &Config, new: &Config) -> Option<(String, String, String)> {
    let identity = config_hash(old);
    if identity == config_hash(new) {
        return None;
    }
    let (tree, other) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    let changes = changes(&tree, &other, String::new());
    // Keys that differ without consequence, as log_every, are not what the user needs to hear about.
    let decisive = changes.iter().find(|change| {
        let mut changed = tree.clone();
        if let Some(place) = changed.pointer_mut(&change.pointer) {
            *place = change.new.clone();
        }
        serde_json::from_value::<Config>(changed).is_ok_and(|config| config_hash(&config) != identity)
    });
    let change = decisive.or(changes.first())?;
    let key = change.pointer.trim_start_matches('/').replace('/', ".");
    Some((key, change.old.to_string(), change.new.to_string()))
}

struct Change {
    pointer: String,
    old: Value,
    new: Value,
}

/// All leaves in which two trees differ. An absent leaf counts as null; arrays are leaves.
fn changes(old: &Value, new: &Value, pointer: String) -> Vec<Change> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
            let null = Value::Null;
            keys.flat_map(|key| {
                let leaf = |map: &serde_json::Map<String, Value>| map.get(key).unwrap_or(&null).clone();
                changes(&leaf(old), &leaf(new), format!("{pointer}/{key}"))
            })
            .collect()
        }
        _ if old == new => Vec::new(),
        _ => vec![Change { pointer, old: old.clone(), new: new.clone() }],
    }
}

/// A folder that other jobs of this run have made holds `jobs/` alone, and perhaps a report of them; anything else is somebody's.
fn nothing_foreign(run: &RunDir) -> Result<(), FolderError> {
    let entries = match fs::read_dir(run.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| FolderError::Io { path: run.path().into(), source })?,
    };
    // The journal and its lock come into being before run.toml: a launch that ended in between has left nothing else.
    let ours = [run.path().join("jobs"), run.journal(), run.report()];
    let output = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("slurm-");
    let foreign = entries.filter_map(Result::ok).find(|entry| !ours.contains(&entry.path()) && !output(entry));
    foreign.map_or(Ok(()), |entry| {
        Err(FolderError::Foreign { folder: run.path().into(), found: entry.file_name().to_string_lossy().into_owned() })
    })
}

/// A job's folder that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The journal, open for adding.
    pub(crate) journal: Journal,
    /// Number that no generation in this folder has had.
    pub(crate) next_generation: u64,
    /// Nobody else may claim it as long as this is there.
    pub(crate) lock: Flock<File>,
}

/// Takes the folder of `job` and writes the resolved configuration into it. [`check`] comes first.
pub(crate) fn claim(run: &RunDir, config: &Config, job: Job, intent: Intent) -> Result<Claim, FolderError> {
    let folder = run.job_dir(job);
    if intent == Intent::Fresh {
        put_aside(folder.path())?;
    }
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| FolderError::Io { path, source }
    };
    fs::create_dir_all(folder.path()).map_err(failed(folder.path()))?;
    let journal_path = folder.journal();
    let journal = Journal::open(&journal_path).map_err(failed(&journal_path))?;
    let lock = lock(&folder)?;
    let next_generation = 1 + journal::read(&journal_path)?.iter().map(|entry| entry.generation).max().unwrap_or(0);
    let text = format!(
        "# The resolved configuration of the run {}, written by orchestrator {}.\n\n{}",
        config.run.name,
        env!("CARGO_PKG_VERSION"),
        load::to_toml(config)?
    );
    replace_file(&folder.run_toml(), text.as_bytes(), 0o644).map_err(failed(&folder.run_toml()))?;
    Ok(Claim { journal, next_generation, lock })
}

/// Locks the journal of a folder for one coordinator at a time; the system lets go of it when that process ends, however it ends.
fn lock(folder: &RunDir) -> Result<Flock<File>, FolderError> {
    let path = folder.journal();
    let file = OpenOptions::new().read(true).append(true).open(&path);
    let file = file.map_err(|source| FolderError::Io { path: path.clone(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => FolderError::InUse { folder: folder.path().into(), pid: coordinator_pid(folder) },
        errno => FolderError::Io { path, source: errno.into() },
    })
}

fn lock_existing(folder: &RunDir) -> Result<Option<Flock<File>>, FolderError> {
    if folder.journal().is_file() { lock(folder).map(Some) } else { Ok(None) }
}

fn coordinator_pid(folder: &RunDir) -> Option<u32> {
    common::control::Address::read(&folder.coordinator()).ok().map(|address| address.pid)
}

/// Renames a folder to the first of NAME.1, NAME.2, ... that is free.
fn put_aside(folder: &Path) -> Result<(), FolderError> {
    if !folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut number = 1_u64;
    let target = loop {
        let target = folder.with_file_name(format!("{name}.{number}"));
        if !target.exists() {
            break target;
        }
        number += 1;
    };
    fs::rename(folder, &target).map_err(|source| FolderError::Io { path: folder.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = include_str!("../../configs/quickstart.toml");

    fn config(overrides: &[&str]) -> Config {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        load::from_str(CONFIG, "quickstart.toml", &overrides).unwrap()
    }

    /// A run folder, and the folder that it is in.
    fn place() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("quickstart"));
        (folder, run)
    }

    #[test]
    fn the_key_that_makes_another_run_is_named_and_not_one_without_consequence() {
        let other =
            config(&["checkpoint.every_steps=7", "model.slot_attention.slots=5", "train.log_every=1", "train.global_batch=64"]);
        let (key, old, new) = difference(&config(&[]), &other).unwrap();
        assert_eq!((key.as_str(), old.as_str(), new.as_str()), ("model.slot_attention.slots", "7", "5"));
        assert_eq!(
            difference(&config(&[]), &config(&["cluster.workers_per_node=1", "evaluate.batch=3", "train.log_every=1"])),
            None
        );
        let (key, ..) = difference(&config(&[]), &config(&["autoencoder.scaling_factor=0.2"])).unwrap();
        assert_eq!(key, "autoencoder.scaling_factor", "a key that is absent in the folder");
    }

    #[test]
    fn a_folder_is_new_or_resumed_or_put_aside_and_nothing_else() {
        let (_folder, run) = place();
        let (mine, other) = (config(&[]), config(&["run.seed=9"]));
        check(&run, &mine, Job::Train, Intent::New, false).unwrap();
        assert!(!run.path().exists(), "looking changes nothing");
        drop(claim(&run, &mine, Job::Train, Intent::New).unwrap());
        assert_eq!(load::from_file(&run.run_toml(), &[]).unwrap(), mine);

        let refused = |config, intent| check(&run, config, Job::Train, intent, false).unwrap_err().to_string();
        let same = refused(&mine, Intent::New);
        assert!(same.contains("--resume") && same.contains("quickstart"), "{same}");
        for intent in [Intent::New, Intent::Resume] {
            let different = refused(&other, intent);
            assert!(different.contains("run.seed is 1 there and 9 here"), "{different}");
        }
        check(&run, &mine, Job::Train, Intent::Resume, false).unwrap();

        check(&run, &other, Job::Train, Intent::Fresh, false).unwrap();
        drop(claim(&run, &other, Job::Train, Intent::Fresh).unwrap());
        let aside = RunDir::new(run.path().with_file_name("quickstart.1"));
        assert_eq!(load::from_file(&aside.run_toml(), &[]).unwrap(), mine);
        assert_eq!(load::from_file(&run.run_toml(), &[]).unwrap(), other);
    }

    #[test]
    fn other_jobs_may_come_before_the_run_but_somebody_s_files_may_not() {
        let (_folder, run) = place();
        drop(claim(&run, &config(&[]), Job::Scenes, Intent::New).unwrap());
        fs::write(run.report(), "of the job before").unwrap();
        check(&run, &config(&["scenes.train=7"]), Job::Scenes, Intent::New, false).unwrap();
        check(&run, &config(&[]), Job::Train, Intent::New, false).unwrap();
        assert!(matches!(check(&run, &config(&[]), Job::Evaluate, Intent::New, false), Err(FolderError::NoRun { .. })));
        fs::write(run.path().join("thesis.txt"), "").unwrap();
        let text = check(&run, &config(&[]), Job::Train, Intent::New, false).unwrap_err().to_string();
        assert!(text.contains("thesis.txt"), "{text}");
    }

    #[test]
    fn a_claimed_folder_is_in_use_until_the_claim_is_gone_and_generations_count_up() {
        let (_folder, run) = place();
        let mut claimed = claim(&run, &config(&[]), Job::Train, Intent::New).unwrap();
        assert_eq!(claimed.next_generation, 1);
        claimed.journal.append(3, journal::Event::Running, "test").unwrap();
        for intent in [Intent::Resume, Intent::Fresh] {
            assert!(matches!(check(&run, &config(&[]), Job::Train, intent, false), Err(FolderError::InUse { .. })));
        }
        drop(claimed);
        assert_eq!(claim(&run, &config(&[]), Job::Train, Intent::Resume).unwrap().next_generation, 4);
    }
}
