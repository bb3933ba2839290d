//! What a monitoring command sees of a run: the files of its folder, whether it waits, runs or is dead. No port and no daemon.

mod forecast;
mod growing;
mod jobs;
mod slurm;
mod standing;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use std::io;

use anyhow::Context;
use common::job::Job;
use common::journal::{Entry, JournalError};
use common::run_dir::RunDir;
use memchr::memmem;

pub(crate) use forecast::Forecast;
pub(crate) use growing::GrowingFile;
pub(crate) use jobs::{chosen_job, jobs};
pub(crate) use slurm::Queue;
pub(crate) use standing::Standing;
pub(crate) use view::View;

use crate::coordinator::Status;
use crate::story::{Record, Time, since_1970};

/// What of the files is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Journal entries of every single worker, of which large runs have thousands: who joined, who was checked, who followed.
    pub(crate) crowd: bool,
    /// Metric records, if their file has no more bytes than this.
    pub(crate) metrics: u64,
}

/// The files of one job of a run. Each look reads what is new.
#[derive(Debug)]
pub(crate) struct Observer {
    /// The job.
    pub(crate) job: Job,
    /// Its folder.
    pub(crate) folder: RunDir,
    wanted: Wanted,
    journal: GrowingFile,
    lines: usize,
    metrics: GrowingFile,
    /// The journal.
    pub(crate) entries: Vec<Entry>,
    /// The metric records; none if there are too many.
    pub(crate) records: Option<Vec<Record>>,
    /// The status, if one was written.
    pub(crate) status: Option<Status>,
    /// When it was written.
    pub(crate) written: Option<Time>,
}

impl Observer {
    /// Looks at a job for the first time.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub(crate) fn new(run: &RunDir, job: Job, wanted: Wanted) -> anyhow::Result<Self> {
        let folder = run.job_dir(job);
        let mut this = Self {
            job,
            wanted,
            journal: GrowingFile::new(folder.journal()),
            lines: 0,
            metrics: GrowingFile::new(folder.metrics()),
            folder,
            entries: Vec::new(),
            records: Some(Vec::new()),
            status: None,
            written: None,
        };
        this.look()?;
        Ok(this)
    }

    /// Looks again.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub(crate) fn look(&mut self) -> anyhow::Result<()> {
        if self.journal.was_replaced() || self.metrics.was_replaced() {
            let run = RunDir::new(self.folder.path());
            self.journal = GrowingFile::new(run.journal());
            self.metrics = GrowingFile::new(run.metrics());
            (self.lines, self.entries, self.records) = (0, Vec::new(), Some(Vec::new()));
        }
        self.look_at_status()?;
        self.look_at_journal()?;
        self.look_at_metrics()
    }

    /// The metric records, or none of them if there are too many.
    pub(crate) fn records(&self) -> &[Record] {
        self.records.as_deref().unwrap_or_default()
    }

    fn look_at_status(&mut self) -> anyhow::Result<()> {
        let path = self.folder.status();
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let status: Status = serde_json::from_slice(&text).with_context(|| {
            format!("cannot understand {}: was it written by another version? use its orchestrator", path.display())
        })?;
        // The host that wrote it may have another clock than the file system and this host: the younger age counts.
        let changed = path.metadata().and_then(|metadata| metadata.modified()).map(since_1970).ok();
        self.written = crate::story::time(&status.updated).max(changed);
        self.status = Some(status);
        Ok(())
    }

    fn look_at_journal(&mut self) -> anyhow::Result<()> {
        let Self { folder, journal, lines, entries, wanted, .. } = self;
        let crowd = [r#""event":"worker-joined""#, r#""event":"worker-checked""#, r#""event":"followed""#].map(memmem::Finder::new);
        let read = journal.read(|line| {
            *lines += 1;
            // Quotes within the strings of an entry are escaped, so this is found nowhere else.
            if line.is_empty() || (!wanted.crowd && crowd.iter().any(|event| event.find(line).is_some())) {
                return Ok(());
            }
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                // Torn by a crash.
                Err(error) if error.is_eof() => {}
                Err(source) => return Err(JournalError::Line { path: folder.journal(), line: *lines, source }.into()),
            }
            anyhow::Ok(())
        });
        read.with_context(|| format!("cannot read {}", folder.journal().display()))
    }

    fn look_at_metrics(&mut self) -> anyhow::Result<()> {
        if self.metrics.length() > self.wanted.metrics {
            self.records = None;
        }
        let Some(records) = &mut self.records else { return Ok(()) };
        let read = self.metrics.read(|line| {
            records.extend(Record::parse(line));
            io::Result::Ok(())
        });
        read.with_context(|| format!("cannot read {}", self.folder.metrics().display()))
    }
}
