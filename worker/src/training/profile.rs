//! `--profile N`: a few steps under the profiler, a trace for Perfetto or chrome://tracing, and a table of where their time went.

use super::laps::{Lap, Laps};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;
use tch::Device;
use torch_shim::{ShimError, profiler};

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
    began: Option<(Instant, f64)>,
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
        Self { steps, seen: 0, trace, device, began: None }
    }

    /// Before each step: starts the profiler if it is time. `communication` are the seconds that the communication thread was busy so
    /// far.
    ///
    /// # Errors
    /// The profiler cannot be started.
    pub fn before_step(&mut self, laps: &mut Laps, communication: f64) -> Result<(), ShimError> {
        if self.steps > 0 && self.seen == WARM_UP {
            profiler::start()?;
            laps.start(Lap::Data, self.device);
            self.began = Some((Instant::now(), communication));
        }
        self.seen += 1;
        Ok(())
    }

    /// After each step, and at the end of training: if it was the last one to profile, writes the trace and returns the findings.
    ///
    /// # Errors
    /// The trace cannot be written.
    pub fn after_step(&mut self, laps: &mut Laps, communication: f64, last: bool) -> Result<Option<Findings>, ShimError> {
        let steps = self.seen - WARM_UP.min(self.seen);
        let Some((began, busy)) = self.began.filter(|_| steps == self.steps || last) else { return Ok(None) };
        self.began = None;
        laps.stop();
        let seconds = began.elapsed().as_secs_f64();
        profiler::stop_and_save(&self.trace)?;
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
