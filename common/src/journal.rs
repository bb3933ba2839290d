//! The append-only story of a run: one JSON object per line, each with the time, what happened, and why.
//!
//! Lines are written whole with one system call each and only ever added, so that any reader at any time sees a true story. A crash
//! can tear the last line; reading leaves it out, and the next writer starts on a line of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::job::Job;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When (UTC, RFC 3339, milliseconds).
    pub time: String,
    /// The generation it happened in; 0 before the first.
    pub generation: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Why, in words.
    pub reason: String,
}

/// What can happen to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A coordinator took charge.
    Launched {
        /// What its workers are to do.
        job: Job,
        /// How many they are.
        world: usize,
        /// The orchestrator's version.
        version: String,
    },
    /// The launcher was told to start all workers.
    GenerationStarted,
    /// A worker has reported.
    WorkerJoined {
        /// Its rank.
        rank: usize,
        /// Its host.
        host: String,
        /// Its process id there.
        pid: u32,
        /// What it computes on.
        device: String,
    },
    /// All workers have reported.
    Running,
    /// A checkpoint is complete.
    CheckpointCommitted {
        /// Optimizer steps it holds.
        step: u64,
    },
    /// The first failure of a generation, which the others follow from.
    Failed {
        /// The rank, if it is one rank's failure.
        rank: Option<usize>,
        /// Units of work done before.
        step: u64,
    },
    /// The workers were asked to save and end.
    StopRequested,
    /// All workers are gone.
    GenerationEnded,
    /// The job did all it was to do.
    Finished,
    /// The launch is over without that.
    Ended {
        /// Exit code of the orchestrator.
        exit_code: u8,
    },
}

/// A journal file open for adding.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens the journal at `path` for adding, creating it when missing.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file })
    }

    /// Adds what happened now.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub fn append(&mut self, generation: u64, event: Event, reason: impl Into<String>) -> io::Result<()> {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut line = serde_json::to_vec(&Entry { time, generation, event, reason: reason.into() })?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// A journal that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system's failure.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A whole line that is not an entry of this version.
    #[error("{path}, line {line}: {source}; was it written by another version, or edited?", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Reads a whole journal; a missing file is an empty one. Torn lines, which only a crash leaves, are left out.
///
/// # Errors
/// The file cannot be read, or a line is valid JSON but no entry.
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(JournalError::Io { path: path.into(), source }),
    };
    let mut entries = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            Err(error) if error.is_eof() => {}
            Err(source) => return Err(JournalError::Line { path: path.into(), line: index + 1, source }),
        }
    }
    Ok(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_torn_at_any_byte_costs_that_line_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let mut journal = Journal::open(&path).unwrap();
        journal.append(1, Event::CheckpointCommitted { step: 500 }, "every 500 steps").unwrap();
        let whole = std::fs::read(&path).unwrap();
        journal.append(1, Event::Failed { rank: Some(1), step: 612 }, "killed by signal 9 “SIGKILL”").unwrap();
        let both = std::fs::read(&path).unwrap();
        for cut in whole.len()..both.len() {
            std::fs::write(&path, &both[..cut]).unwrap();
            Journal::open(&path).unwrap().append(2, Event::GenerationStarted, "restart 1 of 2").unwrap();
            let entries = read(&path).unwrap();
            let kept = if cut == both.len() - 1 { 3 } else { 2 };
            assert_eq!(entries.len(), kept, "cut at {cut}");
            assert_eq!(entries[0].event, Event::CheckpointCommitted { step: 500 });
            assert_eq!(entries[kept - 1].event, Event::GenerationStarted);
        }
    }

    #[test]
    fn a_line_of_another_kind_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        Journal::open(&path).unwrap().append(0, Event::Finished, "all steps done").unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":\"married\"}\n").unwrap();
        let text = read(&path).unwrap_err().to_string();
        assert!(text.contains("line 2"), "{text}");
    }
}
