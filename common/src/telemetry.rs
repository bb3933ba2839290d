//! Logs of a process: to its own file in the run folder, or to standard error.

use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that sets the level, in the syntax of `tracing_subscriber::EnvFilter`: `debug`, `info,worker::data=trace`.
pub const LEVEL_VARIABLE: &str = "LSD_LOG";

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log file cannot be opened.
    #[error("cannot open the log file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The level cannot be understood.
    #[error("{LEVEL_VARIABLE}={value}: not a log level ({message}); try info or debug")]
    Level {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// Logs were set up before.
    #[error("logs are already set up in this process")]
    Twice,
}

/// Sends all `tracing` events of this process to `log_file` (appended, folders made) or, without one, to standard error.
///
/// Each line starts with the time (UTC) and, if given, the rank, so that sorting the lines of all ranks' files tells one story.
///
/// # Errors
/// If the file cannot be opened, the level cannot be understood, or logs were already set up.
pub fn init(log_file: Option<&Path>, rank: Option<usize>) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt().with_env_filter(level()?).with_timer(Stamp { rank });
    let set = match log_file {
        Some(path) => {
            let file = open(path).map_err(|source| TelemetryError::File { path: path.to_owned(), source })?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).finish().try_init()
        }
        None => builder.with_writer(std::io::stderr).finish().try_init(),
    };
    set.map_err(|_| TelemetryError::Twice)
}

fn level() -> Result<EnvFilter, TelemetryError> {
    let value = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    EnvFilter::try_new(&value).map_err(|error| TelemetryError::Level { value, message: error.to_string() })
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Time, then rank.
struct Stamp {
    rank: Option<usize>,
}

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        SystemTime.format_time(w)?;
        match self.rank {
            Some(rank) => write!(w, " rank={rank}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn events_land_in_the_file_with_time_and_rank_and_without_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/gen-001/rank-00003.log");
        init(Some(&path), Some(3)).unwrap();
        tracing::info!(step = 7, "saved");
        let text = std::fs::read_to_string(&path).unwrap();
        let (time, rest) = text.split_once(" rank=3 ").unwrap();
        assert!(time.ends_with('Z') && rest.contains("INFO") && rest.contains("saved step=7"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(matches!(init(None, None), Err(TelemetryError::Twice)));
    }
}
