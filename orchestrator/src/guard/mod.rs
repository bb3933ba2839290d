//! The guard of one worker: its parent process, started by the launcher in its place.
//!
//! Only a parent learns how a process really ended, and only somebody outside of a process can end one that is stopped, out of memory
//! or stuck in a driver. So every worker has a guard, on its own host: it starts the worker, puts what that prints into the rank's log,
//! tells the coordinator how it ended, ends it when the coordinator says so or is gone, and passes on the signals of the launcher,
//! which the worker is kept from. It is the orchestrator's own small binary, and costs a few megabytes and no time.

mod memory;
mod stacks;

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::Context;
use clap::Args;
use common::backend::{self, Collective, Device};
use common::control::{Address, FromWorker, Hello, LineSender, ProcessEnd, Role, ToWorker, connect};
use common::job::Job;
use common::place::{Place, host_name};
use common::run_dir::RunDir;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::{Failure, OrBadInput};
use memory::OutOfMemory;

/// What a guard is told on its command line; rank and world are in its environment.
#[derive(Debug, Args)]
pub(crate) struct GuardArguments {
    /// What the worker does
    job: Job,
    /// The run's folder
    #[arg(long)]
    run_dir: PathBuf,
    /// Which start of the run this is
    #[arg(long)]
    generation: u64,
    /// The worker binary
    #[arg(long)]
    worker: PathBuf,
    /// What the worker computes on
    #[arg(long)]
    device: Device,
    /// What carries its gradients
    #[arg(long)]
    collective: Collective,
}

/// Guards a worker from its start to its end, and exits as it does.
pub(crate) fn run(arguments: &GuardArguments) -> Result<ExitCode, Failure> {
    // A launcher that is killed takes its guards along, and a guard its worker.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let place = Place::detect(|name| std::env::var(name).ok(), arguments.generation).or_bad_input()?;
    let folder = RunDir::new(&arguments.run_dir).job_dir(arguments.job);
    let address = Address::read(&folder.coordinator()).map_err(|error| {
        let host = host_name();
        Failure::bad_input(format!("rank {} on {host}: {error}; is the run's folder on a disk that all hosts share?", place.rank))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let code = runtime.block_on(guard(arguments, place, &folder, &address))?;
    Ok(ExitCode::from(code))
}

async fn guard(arguments: &GuardArguments, place: Place, folder: &RunDir, address: &Address) -> anyhow::Result<u8> {
    let mut signals = Signals::new()?;
    let memory = OutOfMemory::watch();
    let mut worker = Worker::start(arguments, &folder.log_file(place.generation, place.rank))?;
    let hello = Hello {
        role: Role::Guard,
        rank: place.rank,
        world: place.world,
        local_rank: place.local_rank,
        generation: place.generation,
        host: host_name(),
        pid: worker.id,
        device: String::new(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let line = match connect(address, hello).await {
        Ok((_, line)) => line,
        Err(error) => {
            worker.kill();
            return Err(error).context("the worker has no coordinator");
        }
    };
    let (mut say, mut heard) = line.listen();
    let end = worker.watch(&mut say, &mut heard, &mut signals).await;
    let ended = FromWorker::Ended { end, out_of_memory: memory.has_struck() };
    if say.send(&ended).await.is_ok() {
        say.finish(&mut heard).await;
    }
    Ok(end.exit_code())
}

/// The guarded process and everything below it: a group of its own, so that the launcher's signals reach the guard alone.
struct Worker {
    child: Child,
    id: u32,
}

impl Worker {
    fn start(arguments: &GuardArguments, log: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        let mut command = Command::new(&arguments.worker);
        command.arg(arguments.job.name()).arg("--run-dir").arg(&arguments.run_dir);
        command.arg("--generation").arg(arguments.generation.to_string());
        command.arg("--device").arg(arguments.device.name()).arg("--collective").arg(arguments.collective.name());
        if backend::gpus_are_shared() && std::env::var_os("NCCL_HOSTID").is_none() {
            // NCCL refuses two ranks on one GPU unless they seem to be on different hosts.
            command.env("NCCL_HOSTID", format!("guard-{}", std::process::id()));
        }
        // What it prints outside of its log, as a panic or a loader's complaint, belongs into the same file.
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", arguments.worker.display()))?;
        let id = child.id().unwrap_or_default();
        Ok(Self { child, id })
    }

    /// Waits for its end; does meanwhile what the coordinator asks for.
    async fn watch(
        &mut self,
        say: &mut LineSender,
        heard: &mut mpsc::UnboundedReceiver<ToWorker>,
        signals: &mut Signals,
    ) -> ProcessEnd {
        loop {
            let answer = tokio::select! {
                end = self.child.wait() => {
                    // What it may have left behind.
                    self.kill();
                    return end.map_or(ProcessEnd::Code(1), process_end);
                }
                name = signals.next() => Some(FromWorker::Signalled { signal: name.into() }),
                message = heard.recv() => match message {
                    Some(ToWorker::Stacks) => Some(FromWorker::Stacks { text: stacks::of(self.id).await }),
                    Some(ToWorker::Welcome { .. } | ToWorker::Stop { .. } | ToWorker::Save { .. } | ToWorker::Rendezvous { .. }) => None,
                    // A worker that nobody watches must not go on holding its device.
                    Some(ToWorker::Kill { .. }) | None => {
                        self.kill();
                        let end = self.child.wait().await;
                        return end.map_or(ProcessEnd::Code(1), process_end);
                    }
                },
            };
            if let Some(answer) = answer {
                // A broken line shows by its end.
                let _ = say.send(&answer).await;
            }
        }
    }

    fn kill(&self) {
        if let Ok(group) = i32::try_from(self.id) {
            // A group that is gone needs no signal.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

fn process_end(status: ExitStatus) -> ProcessEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ProcessEnd::Code(code),
        (None, signal) => ProcessEnd::Signal(signal.unwrap_or_default()),
    }
}

/// The signals by which launchers and Slurm ask a process to end, or to save and go on.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    user: tokio::signal::unix::Signal,
    save: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user: signal(SignalKind::user_defined1())?,
            save: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.user.recv() => "SIGUSR1",
            _ = self.save.recv() => "SIGUSR2",
        }
    }
}
