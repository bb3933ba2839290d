//! What a report tells of a run: plain data, gathered from the run's files, that the page is made of.

use serde_json::Value;

use crate::commands::checkpoints::list::Row;
use crate::story::{Incident, Ledger, Remark};

/// Everything that the page shows.
#[derive(Debug)]
pub(super) struct Facts {
    /// The run's name: that of its folder.
    pub(super) name: String,
    /// When the report was written.
    pub(super) written: String,
    /// Where the run stands, in words.
    pub(super) heading: String,
    /// Whether that is bad news.
    pub(super) bad: bool,
    /// The job that curves, failures and goodput are about.
    pub(super) job: String,
    /// The other jobs, each in a line.
    pub(super) other_jobs: Vec<String>,
    /// What `orchestrator status` says of the job.
    pub(super) status: Vec<(&'static str, String)>,
    /// The curves.
    pub(super) charts: Vec<Chart>,
    /// What happened at which step.
    pub(super) marks: Vec<Mark>,
    /// The figures of the jobs that judge a model.
    pub(super) figures: Figures,
    /// The picture grids.
    pub(super) pictures: Vec<Picture>,
    /// Pictures that the page does not hold, each with the reason.
    pub(super) left_out: Vec<(String, String)>,
    /// Where the time went; nothing before the first launch.
    pub(super) ledger: Option<Ledger>,
    /// How often the run should save, once that is known.
    pub(super) advice: Option<String>,
    /// The failures, oldest first.
    pub(super) incidents: Vec<Incident>,
    /// What else happened, oldest first.
    pub(super) remarks: Vec<Remark>,
    /// The checkpoints, newest first.
    pub(super) checkpoints: Checkpoints,
    /// Where it comes from: names and values.
    pub(super) provenance: Vec<(&'static str, String)>,
    /// The configuration, or why it cannot be read.
    pub(super) settings: Result<Settings, String>,
    /// `run.toml` as it is.
    pub(super) run_toml: Option<String>,
}

/// What a job has written, nothing before it has, or why that cannot be read.
pub(super) type Told = Result<Option<Value>, String>;

/// Figures of the trained model.
#[derive(Debug)]
pub(super) struct Figures {
    /// Of `evaluate`.
    pub(super) evaluation: Told,
    /// Of `probe`.
    pub(super) probes: Told,
    /// Of `compose`, where it judges what it paints.
    pub(super) distances: Told,
}

/// The checkpoints, as far as they are known.
#[derive(Debug)]
pub(super) enum Checkpoints {
    /// Those that lie in the stores now.
    Stored(Vec<Row>),
    /// The stores did not answer: what the journal tells of commits (step, generation, time, seconds), and why not more.
    Told(Vec<(u64, u64, String, f64)>, String),
}

impl Checkpoints {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Stored(rows) => rows.len(),
            Self::Told(commits, _) => commits.len(),
        }
    }
}

/// A chart of one or more curves over the same steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart {
    /// What it is about.
    pub(super) title: &'static str,
    /// The unit of its values, if they have one.
    pub(super) unit: &'static str,
    /// What the vertical axis spans.
    pub(super) span: Span,
    /// Its curves; their names may be empty where there is one.
    pub(super) lines: Vec<Line>,
}

/// What a vertical axis spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// The values, on a logarithmic axis where they differ much.
    Tight,
    /// From 0 on: half of something looks like half.
    FromZero,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// What it is called.
    pub(super) name: &'static str,
    /// Steps and values, thinned for the drawing.
    pub(super) points: Vec<(u64, f64)>,
}

/// Something that happened at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Steps done before.
    pub(super) step: u64,
    /// What kind of thing.
    pub(super) kind: MarkKind,
    /// Its name in the chart.
    pub(super) label: String,
    /// All of it.
    pub(super) words: String,
}

/// What kind of thing is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkKind {
    /// A generation made its first step.
    Generation,
    /// A generation failed.
    Failure,
}

/// A picture within the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Its file's name.
    pub(super) name: String,
    /// Its type, as `image/png`.
    pub(super) media: &'static str,
    /// Width and height in pixels, if its header says so.
    pub(super) size: Option<(u32, u32)>,
    /// The file.
    pub(super) bytes: Vec<u8>,
}

/// The resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Keys whose values are not those that they have when they are left out, and the values.
    pub(super) chosen: Vec<(String, String)>,
}
