//! `--profile N`: a few steps under the profiler, a trace for Perfetto or chrome://tracing, and a table of where their time went.

use super::laps::{Lap, Laps};
use anyhow::Context;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::Device;
use torch_shim::ShimError;
use torch_shim::profiler::{self, Detail};

/// Steps before the profile: the first ones of a process allocate memory and choose algorithms.
const WARM_UP: u64 = 3;

/// The profile of some steps of one worker, before, while and after it is taken.
pub struct Profile {
    /// Steps to profile; 0 for none.
    steps: u64,
    /// Steps since the worker started.
    seen: u64,
    trace: PathBuf,
    device: Device,
    running: Option<Running>,
}

/// A profile that is being taken.
struct Running {
    since: Instant,
    /// Seconds that the communication thread had been busy by then.
    communication: f64,
    recording: profiler::Profile,
}

/// What a profile has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// Steps.
    pub steps: u64,
    /// Seconds per step by the clock on the wall.
    pub step_seconds: f64,
    /// Part and seconds per step.
    pub parts: Vec<(Lap, f64)>,
    /// Seconds per step that the communication thread was busy.
    pub communication: f64,
}

impl Profile {
    /// A profile of `steps` steps on `device`, whose trace goes to the file `trace`.
    pub fn new(steps: u64, trace: PathBuf, device: Device) -> Self {
        Self { steps, seen: 0, trace, device, running: None }
    }

    /// Before each step: starts the profiler if it is time. `communication` are the seconds that the communication thread was busy so
    /// far.
    ///
    /// # Errors
    /// The profiler cannot be started.
    pub fn before_step(&mut self, laps: &mut Laps, communication: f64) -> Result<(), ShimError> {
        if self.steps > 0 && self.seen == WARM_UP {
            let recording = profiler::Profile::start(Detail::default())?;
            laps.start(Lap::Data, self.device);
            self.running = Some(Running { since: Instant::now(), communication, recording });
        }
        self.seen += 1;
        Ok(())
    }

    /// After each step, and at the end of training: if it was the last one to profile, writes the trace and returns the findings.
    ///
    /// # Errors
    /// The trace cannot be written.
    pub fn after_step(&mut self, laps: &mut Laps, communication: f64, last: bool) -> anyhow::Result<Option<Findings>> {
        let steps = self.seen - WARM_UP.min(self.seen);
        if steps != self.steps && !last {
            return Ok(None);
        }
        let Some(Running { since, communication: busy, recording }) = self.running.take() else { return Ok(None) };
        laps.stop();
        let seconds = since.elapsed().as_secs_f64();
        let folder = self.trace.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        recording.save(&self.trace)?;
        let per_step = |seconds: f64| seconds / steps as f64;
        Ok(Some(Findings {
            steps,
            step_seconds: per_step(seconds),
            parts: laps.seconds().map(|(lap, seconds)| (lap, per_step(seconds))).collect(),
            communication: per_step(communication - busy),
        }))
    }

    /// Where the trace lies.
    pub fn trace(&self) -> &PathBuf {
        &self.trace
    }
}

impl Findings {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut table = format!("{:<22} {:>10} {:>7}\n", "part of a step", "ms", "share");
        let mut row = |name: &str, seconds: f64| {
            let _ = writeln!(table, "{name:<22} {:>10.2} {:>6.1}%", seconds * 1e3, 100.0 * seconds / self.step_seconds);
        };
        self.parts.iter().for_each(|(lap, seconds)| row(lap.name(), *seconds));
        row("all", self.step_seconds);
        row("(sums, hidden or not)", self.communication);
        table
    }
}
