//! What can be known to fail before anything is started or written: a worker that does not run, a data set that is not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use common::config::Config;
use common::job::Job;
use common::shards::{Dataset, ShardError};
use common::storage::{StorageError, Store};

/// The environment variable that names another worker binary.
pub(crate) const WORKER_VARIABLE: &str = "LSD_WORKER";

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
    /// A data set that the job reads.
    #[error(transparent)]
    Data(#[from] ShardError),
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

/// Runs `worker --version` and compares.
pub(crate) fn check_worker(path: &Path) -> Result<(), PreflightError> {
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
    let (worker, orchestrator) = (out.split_whitespace().last().unwrap_or("unknown"), env!("CARGO_PKG_VERSION"));
    if worker != orchestrator {
        return Err(PreflightError::Version { path: path.into(), worker: worker.into(), orchestrator });
    }
    Ok(())
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
        Job::Encode => check_split(images, "train", None).await,
        Job::Autoencoder => {
            let batch = config.autoencoder.train.global_batch;
            check_split(images, "train", Some(("autoencoder.train.global_batch", batch))).await
        }
        Job::Train => check_split(latents, "train", Some(("train.global_batch", config.train.global_batch))).await,
        Job::Evaluate | Job::Compose => check_split(latents, "validation", None).await,
    }
}

async fn check_split(url: &str, split: &str, batch: Option<(&'static str, usize)>) -> Result<(), PreflightError> {
    let dataset = Dataset::open(Store::open(url)?.child(split), 0).await?;
    let rows = dataset.rows();
    match batch {
        Some((key, batch)) if rows < batch as u64 => {
            Err(PreflightError::FewerThanOneBatch { key, batch, url: format!("{url}/{split}"), rows })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_s_complaint_names_the_library() {
        let complaint =
            "/x/worker: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such file";
        assert_eq!(missing_library(complaint), Some("libtorch_cpu.so"));
        assert_eq!(missing_library("error: no such job"), None);
    }
}
