//! The processes of one generation: started in groups of their own, watched, and ended with everything below them.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use common::control::ProcessEnd;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::launchers::ProcessSpec;
use crate::supervisor::Event;

/// The process groups that are still there. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Processes {
    generation: u64,
    groups: Groups,
}

#[derive(Debug, Clone, Default)]
struct Groups(Arc<Mutex<BTreeSet<Pid>>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        for group in self.lock().iter() {
            // A group that is gone needs no signal.
            let _ = killpg(*group, signal);
        }
    }
}

impl Processes {
    /// Starts all of `specs`, with both standard streams appended to `log`. Each end becomes an event.
    pub(crate) fn start(
        specs: &[ProcessSpec],
        generation: u64,
        log: &Path,
        events: &mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        let this = Self { generation, groups: Groups::default() };
        let children: Vec<(Option<usize>, Child)> = specs
            .iter()
            .map(|spec| {
                let child = spawn(spec, log).with_context(|| format!("cannot start {}", spec.program.display()))?;
                this.groups.lock().extend(group(&child));
                Ok((spec.rank, child))
            })
            .collect::<anyhow::Result<_>>()?;
        for (rank, child) in children {
            tokio::spawn(watch(child, rank, generation, this.groups.clone(), events.clone()));
        }
        Ok(this)
    }

    /// Asks all groups of `generation` to end, or kills them with `force`.
    pub(crate) fn end(&self, generation: u64, force: bool) {
        if generation == self.generation {
            self.groups.signal(if force { Signal::SIGKILL } else { Signal::SIGTERM });
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.groups.signal(Signal::SIGKILL);
    }
}

fn spawn(spec: &ProcessSpec, log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).envs(spec.environment.iter().map(|(name, value)| (name, value)));
    for name in spec.without {
        command.env_remove(name);
    }
    // A group of its own: Ctrl-C reaches the coordinator alone, which then asks the workers to save.
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()
}

/// The group that [`spawn`] made, which has the id of its first process.
fn group(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
}

async fn watch(mut child: Child, rank: Option<usize>, generation: u64, groups: Groups, events: mpsc::UnboundedSender<Event>) {
    let group = group(&child);
    let status = child.wait().await;
    let remaining = {
        let mut groups = groups.lock();
        if let Some(group) = group {
            // What a dead launcher has left behind.
            let _ = killpg(group, Signal::SIGKILL);
            groups.remove(&group);
        }
        groups.len()
    };
    let end = status.map_or(ProcessEnd::Code(1), process_end);
    // Without a receiver the coordinator is ending, and the drop of `Processes` does the rest.
    let _ = events.send(Event::ProcessEnded { generation, rank, end, remaining });
}

fn process_end(status: ExitStatus) -> ProcessEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ProcessEnd::Code(code),
        (None, signal) => ProcessEnd::Signal(signal.unwrap_or_default()),
    }
}
