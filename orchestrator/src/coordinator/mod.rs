//! The runtime around the supervisor: it turns sockets, processes, signals and time into events, and does what the supervisor commands.

mod display;
mod processes;
#[allow(dead_code, reason = "the coordinator does not listen yet")]
pub(crate) mod prometheus;
mod status;

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::control::{self, Address, Connection, FromWorker, Key, ServerEvent, ToWorker};
use common::job::Job;
use common::journal::{self, Journal};
use common::run_dir::RunDir;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

pub(crate) use display::{Display, describe, significant};
use processes::Processes;
pub(crate) use status::{Status, WorkerStatus};

use crate::launchers::{LaunchSpec, Launcher};
use crate::supervisor::{Command, Event, Options, Outcome, Patience, State, StopSignal, Supervisor};

/// How often the supervisor is told that time has passed.
const TICK: Duration = Duration::from_millis(200);
/// How often `status.json` is replaced.
const STATUS: Duration = Duration::from_secs(1);
/// Messages of workers that may wait for the supervisor.
const INBOX: usize = 1024;

/// Everything that a launch needs, checked and ready.
pub(crate) struct Launch {
    /// What the workers do.
    pub(crate) job: Job,
    /// Folder of that job.
    pub(crate) folder: RunDir,
    /// Its journal, opened and locked.
    pub(crate) journal: Journal,
    /// Number of the first generation.
    pub(crate) first_generation: u64,
    /// Restarts allowed without a new checkpoint in between.
    pub(crate) max_restarts: usize,
    /// How workers are started.
    pub(crate) launcher: Box<dyn Launcher>,
    /// Which workers.
    pub(crate) spec: LaunchSpec,
}

/// Runs a launch to its end.
///
/// # Errors
/// What keeps the coordinator itself from working; what happens to workers is part of the outcome.
pub(crate) async fn run(launch: Launch, display: Display) -> anyhow::Result<Outcome> {
    let listener = control::bind(Ipv4Addr::LOCALHOST.into()).await.context("cannot listen for workers")?;
    let key = Key::generate().context("cannot make a key")?;
    let address = Address {
        address: listener.local_addr()?.to_string(),
        key: key.clone(),
        generation: launch.first_generation,
        pid: std::process::id(),
    };
    let (server_events, from_server) = mpsc::channel(INBOX);
    tokio::spawn(control::serve(listener, key, server_events));
    let (process_events, from_processes) = mpsc::unbounded_channel();
    let inputs = Inputs {
        server: from_server,
        processes: from_processes,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        tick: ticking(TICK),
    };
    let started = Instant::now();
    let options = Options {
        job: launch.job,
        world: launch.spec.world,
        max_restarts: launch.max_restarts,
        first_generation: launch.first_generation,
        version: env!("CARGO_PKG_VERSION").into(),
        patience: Patience::default(),
    };
    let (supervisor, commands) = Supervisor::start(options, started.elapsed());
    let status = first_status(&launch, &supervisor);
    let coordinator = Coordinator {
        launch,
        supervisor,
        started,
        address,
        display,
        status,
        status_written: None,
        replies: HashMap::new(),
        processes: None,
        process_events,
    };
    coordinator.run(inputs, commands).await
}

fn first_status(launch: &Launch, supervisor: &Supervisor) -> Status {
    let now = status::now();
    Status {
        job: launch.job,
        state: supervisor.state(),
        updated: now.clone(),
        started: now,
        slurm_job: None,
        deadline: None,
        coordinator_pid: std::process::id(),
        coordinator_host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        generation: supervisor.generation(),
        world: launch.spec.world,
        lost_hosts: Vec::new(),
        workers: Vec::new(),
        progress: None,
        checkpoint: None,
        checkpoint_committed: None,
        checkpoint_seconds: None,
        restarts: 0,
        failure: None,
        exit_code: None,
    }
}

fn ticking(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Where events come from.
struct Inputs {
    server: mpsc::Receiver<ServerEvent>,
    processes: mpsc::UnboundedReceiver<Event>,
    interrupt: Signal,
    terminate: Signal,
    tick: Interval,
}

/// One thing that happened.
enum Input {
    Server(ServerEvent),
    Event(Event),
}

impl Inputs {
    async fn next(&mut self) -> Input {
        tokio::select! {
            Some(event) = self.server.recv() => Input::Server(event),
            Some(event) = self.processes.recv() => Input::Event(event),
            Some(()) = self.interrupt.recv() => Input::Event(Event::Signal(StopSignal::Interrupt)),
            Some(()) = self.terminate.recv() => Input::Event(Event::Signal(StopSignal::Terminate)),
            _ = self.tick.tick() => Input::Event(Event::Tick),
        }
    }
}

struct Coordinator {
    launch: Launch,
    supervisor: Supervisor,
    started: Instant,
    address: Address,
    display: Display,
    status: Status,
    status_written: Option<(Instant, State)>,
    replies: HashMap<Connection, mpsc::UnboundedSender<ToWorker>>,
    processes: Option<Processes>,
    process_events: mpsc::UnboundedSender<Event>,
}

impl Coordinator {
    async fn run(mut self, mut inputs: Inputs, first: Vec<Command>) -> anyhow::Result<Outcome> {
        let mut commands = first;
        loop {
            for command in commands {
                if let Some(outcome) = self.execute(command)? {
                    self.status.exit_code = Some(outcome.exit_code());
                    self.write_status()?;
                    // The key opens nothing any more. A worker that finds no file says so in one line.
                    let _ = fs::remove_file(self.launch.folder.coordinator());
                    return Ok(outcome);
                }
            }
            let due = self.status_written.is_none_or(|(when, state)| when.elapsed() >= STATUS || state != self.supervisor.state());
            if due {
                self.write_status()?;
            }
            commands = match inputs.next().await {
                Input::Server(event) => self.server_event(event),
                Input::Event(event) => self.supervisor.handle(event, self.started.elapsed()),
            };
        }
    }

    fn server_event(&mut self, event: ServerEvent) -> Vec<Command> {
        let event = match event {
            ServerEvent::Joined { connection, hello, replies } => {
                self.replies.insert(connection, replies);
                Event::Joined { connection, hello }
            }
            ServerEvent::Message { connection, message } => {
                if let FromWorker::Progress(progress) = &message
                    && self.supervisor.rank_of(connection) == Some(0)
                {
                    self.display.progress(progress);
                    self.status.progress = Some(progress.clone());
                }
                Event::Said { connection, message }
            }
            ServerEvent::Left { connection, error } => Event::Left { connection, error: error.map(|error| error.to_string()) },
            ServerEvent::Rejected(error) => {
                self.display.note(&format!("dropped a stranger on the control port: {error}"));
                return Vec::new();
            }
        };
        self.supervisor.handle(event, self.started.elapsed())
    }

    /// Does what the supervisor says; gives the outcome at the end.
    fn execute(&mut self, command: Command) -> anyhow::Result<Option<Outcome>> {
        match command {
            Command::Start { generation } => self.start(generation)?,
            Command::End { generation, force } => {
                if let Some(processes) = &self.processes {
                    processes.end(generation, force);
                }
                if force {
                    self.kill_workers();
                }
            }
            Command::Tell { connection, message } => {
                if let Some(replies) = self.replies.get(&connection) {
                    // A worker that has left meanwhile is reported as such.
                    let _ = replies.send(message);
                }
            }
            Command::Close { connection } => {
                self.replies.remove(&connection);
            }
            Command::Record { generation, event, reason } => self.record(generation, event, &reason)?,
            Command::Finish(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }

    fn start(&mut self, generation: u64) -> anyhow::Result<()> {
        let folder = &self.launch.folder;
        let logs = folder.log_dir(generation);
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        self.address.generation = generation;
        self.address.write(&folder.coordinator())?;
        let specs = self.launch.launcher.processes(&self.launch.spec, generation);
        let log = folder.launcher_log(generation);
        self.processes = Some(Processes::start(&specs, generation, &log, &self.process_events)?);
        Ok(())
    }

    /// SIGKILL to the workers of this host: a launcher that is killed cannot do so any more, and a stopped worker ends by nothing else.
    fn kill_workers(&self) {
        let here = self.supervisor.workers().iter().filter(|worker| worker.hello.host == self.status.coordinator_host);
        // As long as its connection is open the process exists, and the id is its own.
        for worker in here.filter(|worker| worker.connected) {
            if let Ok(id) = i32::try_from(worker.hello.pid) {
                // One that ends at this very moment needs no signal.
                let _ = kill(Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    fn record(&mut self, generation: u64, event: journal::Event, reason: &str) -> anyhow::Result<()> {
        match &event {
            journal::Event::GenerationStarted { .. } if generation > self.launch.first_generation => self.display.note(reason),
            journal::Event::StopRequested => {
                self.display.note(&format!("{reason}: the workers save and end; once more kills them"))
            }
            _ => {}
        }
        let path = self.launch.folder.journal();
        self.launch.journal.append(generation, event, reason).with_context(|| format!("cannot write {}", path.display()))
    }

    fn write_status(&mut self) -> anyhow::Result<()> {
        self.status.update(&self.supervisor);
        self.status_written = Some((Instant::now(), self.status.state));
        let path = self.launch.folder.status();
        self.status.write(&path).with_context(|| format!("cannot write {}", path.display()))
    }
}
