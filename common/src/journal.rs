//! The append-only story of a run: one JSON object per line, each with the time, what happened, and why.
//!
//! Lines are written whole with one system call each and only ever added, so that any reader at any time sees a true story. A crash
//! can tear the last line; reading leaves it out, and the next writer starts on a line of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::control::{Checkup, Evaluation, FailureKind, Setback};
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

/// What can happen to a run. Fields that came later have defaults, so that old journals can be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run was handed to Slurm and waits for its hosts.
    Submitted {
        /// Slurm's number for it.
        slurm_job: String,
    },
    /// A coordinator took charge.
    Launched {
        /// What its workers are to do.
        job: Job,
        /// How many they are.
        world: usize,
        /// The orchestrator's version.
        version: String,
        /// The Slurm job that it runs in, as `1234`, if it does.
        #[serde(default)]
        slurm_job: Option<String>,
        /// The host of the coordinator.
        #[serde(default)]
        host: String,
        /// What it was built from.
        #[serde(default)]
        revisions: Revisions,
    },
    /// The launcher was told to start all workers.
    GenerationStarted {
        /// How many they are.
        #[serde(default)]
        world: usize,
        /// The hosts that they are on; empty for this host alone.
        #[serde(default)]
        hosts: Vec<String>,
    },
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
    /// A worker has tried out its device.
    WorkerChecked {
        /// Its rank.
        rank: usize,
        /// What it has measured.
        checkup: Checkup,
    },
    /// All workers have; the reason says what that showed.
    CheckedUp {
        /// The device of all of them.
        device: String,
        /// Their matrix products together, in TFLOP/s.
        total_tflops: f64,
    },
    /// Before the first step a worker stands out among the others; the reason says in what.
    Outlier {
        /// Its rank; of a host with another driver the first one.
        rank: usize,
        /// Its host.
        host: String,
    },
    /// A step was completed for the first time in this generation.
    FirstStep {
        /// Steps done.
        step: u64,
    },
    /// The gradients of a step were no numbers, and training went on nevertheless.
    Setback(Setback),
    /// The model was looked at with held-out images.
    Evaluated(Evaluation),
    /// In that the slots look collapsed, for the first time since they did not; the reason has the figures.
    SlotsCollapsed {
        /// Steps done.
        step: u64,
    },
    /// A checkpoint is complete.
    CheckpointCommitted {
        /// Optimizer steps it holds.
        step: u64,
        /// Seconds from the wish to save to the commit.
        #[serde(default)]
        seconds: f64,
    },
    /// A checkpoint was not saved, and training went on nevertheless; the reason says why.
    CheckpointFailed {
        /// Optimizer steps that it would hold.
        step: u64,
    },
    /// The first failure of a generation, which the others follow from.
    Failed {
        /// The rank, if it is one rank's failure.
        rank: Option<usize>,
        /// Its host, as far as known.
        #[serde(default)]
        host: Option<String>,
        /// Units of work done before.
        step: u64,
        /// What kind of failure.
        #[serde(default)]
        kind: Option<FailureKind>,
        /// The last lines of the log of that rank.
        #[serde(default)]
        log: Vec<String>,
    },
    /// Another worker of the same generation ended because of that failure, or after it.
    Followed {
        /// Its rank.
        rank: usize,
    },
    /// A host does not answer: the next generation does without it.
    HostLost {
        /// Its name.
        host: String,
    },
    /// A lost host answers again: the next generation may use it.
    HostBack {
        /// Its name.
        host: String,
    },
    /// One rank keeps the others waiting.
    Straggler {
        /// The rank.
        rank: usize,
        /// Its host.
        host: String,
        /// Its computing time per step over the median rank's.
        factor: f64,
    },
    /// What was found out about a generation that hangs: who did not enter the collective, what its threads are doing.
    HangReport {
        /// The file with the whole report.
        file: String,
    },
    /// The workers were asked to save and end.
    StopRequested,
    /// The workers were asked to save and go on.
    SaveRequested,
    /// The job goes back into Slurm's queue, to be continued.
    Requeued {
        /// The Slurm job that will continue it.
        slurm_job: String,
    },
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

/// Git revisions, as [`crate::revision`] tells them, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revisions {
    /// That the orchestrator was built from.
    pub orchestrator: Option<String>,
    /// That the worker was built from.
    pub worker: Option<String>,
    /// That of the checkout in which the configuration lies.
    pub config: Option<String>,
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
    use crate::control::SetbackKind;

    fn failure() -> Event {
        Event::Failed {
            rank: Some(1),
            host: Some("node2".into()),
            step: 612,
            kind: Some(FailureKind::Fault),
            log: vec!["“last”".into()],
        }
    }

    #[test]
    fn a_journal_from_before_a_field_existed_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let line = r#"{"time":"2026-11-01T10:00:00.000Z","generation":1,"event":"failed","rank":1,"step":612,"reason":"killed"}"#;
        std::fs::write(&path, format!("{line}\n")).unwrap();
        let entries = read(&path).unwrap();
        assert_eq!(entries[0].event, Event::Failed { rank: Some(1), host: None, step: 612, kind: None, log: Vec::new() });
    }

    #[test]
    fn setbacks_read_back_and_are_told_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let setbacks = [SetbackKind::Skipped, SetbackKind::BackTo(500)].map(|kind| Setback { step: 512, kind });
        let mut journal = Journal::open(&path).unwrap();
        setbacks.iter().for_each(|setback| journal.append(1, Event::Setback(*setback), setback.to_string()).unwrap());
        let entries = read(&path).unwrap();
        assert_eq!(
            entries.iter().map(|entry| &entry.event).collect::<Vec<_>>(),
            setbacks.map(Event::Setback).iter().collect::<Vec<_>>()
        );
        assert_eq!(entries[0].reason, "step 512 was skipped: its gradients were no numbers");
        let back = "went back from step 512, whose gradients were no numbers, to the checkpoint of step 500";
        assert_eq!(entries[1].reason, back);
    }

    #[test]
    fn a_line_torn_at_any_byte_costs_that_line_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let mut journal = Journal::open(&path).unwrap();
        journal.append(1, Event::CheckpointCommitted { step: 500, seconds: 0.25 }, "every 500 steps").unwrap();
        let whole = std::fs::read(&path).unwrap();
        journal.append(1, failure(), "killed by signal 9 “SIGKILL”").unwrap();
        let both = std::fs::read(&path).unwrap();
        for cut in whole.len()..both.len() {
            std::fs::write(&path, &both[..cut]).unwrap();
            Journal::open(&path)
                .unwrap()
                .append(2, Event::GenerationStarted { world: 2, hosts: Vec::new() }, "restart 1 of 2")
                .unwrap();
            let entries = read(&path).unwrap();
            let kept = if cut == both.len() - 1 { 3 } else { 2 };
            assert_eq!(entries.len(), kept, "cut at {cut}");
            assert_eq!(entries[0].event, Event::CheckpointCommitted { step: 500, seconds: 0.25 });
            assert_eq!(entries[kept - 1].event, Event::GenerationStarted { world: 2, hosts: Vec::new() });
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
