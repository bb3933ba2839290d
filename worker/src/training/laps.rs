//! Where the time of a step goes, measured where the step itself changes from one part to the next.

use std::time::Instant;
use tch::{Cuda, Device};
use torch_shim::profiler::{Range, record_function};

/// A part of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lap {
    /// Waiting for the batch.
    Data,
    /// Forward passes.
    Forward,
    /// Backward passes.
    Backward,
    /// Waiting for sums over the workers that no computation has hidden.
    Communication,
    /// Clipping, AdamW and the moving average.
    Optimizer,
    /// Copying the state for a checkpoint.
    Checkpoint,
    /// Looking at held-out images.
    Evaluation,
    /// Records, pictures, reports.
    Other,
}

impl Lap {
    /// All, in the order of a step.
    pub const ALL: [Self; 8] = [
        Self::Data,
        Self::Forward,
        Self::Backward,
        Self::Communication,
        Self::Optimizer,
        Self::Checkpoint,
        Self::Evaluation,
        Self::Other,
    ];

    /// Its name in tables and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Communication => "exposed communication",
            Self::Optimizer => "optimizer",
            Self::Checkpoint => "checkpoint copy",
            Self::Evaluation => "evaluation",
            Self::Other => "other",
        }
    }
}

/// A stopwatch for the parts of a step. Switched off it does nothing; switched on, it waits for the device at every change, so that the
/// device's time is booked where it was caused: steps are then slower than without.
#[derive(Default)]
pub struct Laps {
    running: Option<Running>,
    /// Seconds of each of [`Lap::ALL`].
    seconds: [f64; Lap::ALL.len()],
}

struct Running {
    device: Device,
    lap: Lap,
    since: Instant,
    /// Shows the part in a trace.
    _range: Range,
}

impl Laps {
    /// Starts with `lap` on `device`.
    pub fn start(&mut self, lap: Lap, device: Device) {
        wait_for(device);
        self.running = Some(Running { device, lap, since: Instant::now(), _range: record_function(lap.name()) });
    }

    /// Whether it is switched on.
    pub fn are_running(&self) -> bool {
        self.running.is_some()
    }

    /// Goes on with `lap`.
    pub fn enter(&mut self, lap: Lap) {
        let Some(device) = self.stop() else { return };
        self.start(lap, device);
    }

    /// Stops. Returns the device, if it was running.
    pub fn stop(&mut self) -> Option<Device> {
        let Running { device, lap, since, .. } = self.running.take()?;
        wait_for(device);
        self.seconds[lap as usize] += since.elapsed().as_secs_f64();
        Some(device)
    }

    /// Seconds of each part so far.
    pub fn seconds(&self) -> impl Iterator<Item = (Lap, f64)> {
        Lap::ALL.into_iter().zip(self.seconds)
    }
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
