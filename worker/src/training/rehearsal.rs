//! Letting an ordered misfortune happen ([`common::rehearsal`]).

use crate::jobs::JobContext;
use anyhow::Context;
use common::rehearsal::{Fault, Order, Struck, VARIABLE};
use common::run_dir::{RunDir, replace_file};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// The order for this run, if there is one and it was not carried out yet.
pub struct Rehearsal {
    order: Option<Order>,
    run: RunDir,
}

impl Rehearsal {
    /// The order in the environment of this worker.
    ///
    /// # Errors
    /// An order that is not understood.
    pub fn from_environment(context: &JobContext) -> anyhow::Result<Self> {
        let order = std::env::var(VARIABLE).ok().map(|text| text.parse::<Order>()).transpose().context(VARIABLE)?;
        let order = order.filter(|order| order.rank == context.place.rank && !context.run.rehearsal().exists());
        Ok(Self { order, run: context.run.clone() })
    }

    /// After a step: lets it happen if it is due.
    ///
    /// # Errors
    /// The note of it cannot be written.
    pub fn after_step(&mut self, step: u64) -> anyhow::Result<()> {
        let Some(order) = self.order.filter(|order| step >= order.step && order.fault != Fault::FullDisk) else { return Ok(()) };
        self.note(step)?;
        match order.fault {
            Fault::KillRank => raise(Signal::SIGKILL)?,
            Fault::KillHost => self.kill_host()?,
            Fault::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            // To its guard, where the launcher's signals arrive.
            Fault::Preempt => kill(Pid::parent(), Signal::SIGTERM)?,
            Fault::FullDisk => {}
        }
        Ok(())
    }

    /// Before a save: fails as a full disk does if that is due.
    ///
    /// # Errors
    /// That failure.
    pub fn before_save(&mut self, step: u64) -> anyhow::Result<()> {
        if self.order.is_none_or(|order| step < order.step || order.fault != Fault::FullDisk) {
            return Ok(());
        }
        self.note(step)?;
        Err(std::io::Error::from_raw_os_error(nix::libc::ENOSPC)).context("a rehearsed save")
    }

    fn note(&mut self, step: u64) -> anyhow::Result<()> {
        self.order = None;
        let path = self.run.rehearsal();
        let text = serde_json::to_vec(&Struck::now(step))?;
        replace_file(&path, &text, 0o644).with_context(|| path.display().to_string())
    }

    /// Kills every guard of this run on this host, whose workers end with them.
    fn kill_host(&self) -> anyhow::Result<()> {
        let run = self.run.path().display().to_string();
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words.get(1) == Some(&b"guard".as_slice()) && words.contains(&run.as_bytes()) {
                // One that is gone needs no signal.
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        Ok(raise(Signal::SIGKILL)?)
    }
}
