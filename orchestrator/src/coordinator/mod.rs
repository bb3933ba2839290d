//! The runtime around the supervisor: it turns sockets, processes, signals and time into events, and does what the supervisor commands.

mod display;
mod inputs;
mod interface;
mod limits;
mod probing;
mod processes;
mod prometheus;
mod slurm_watch;
mod status;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use common::config::ClusterConfig;
use common::control::{self, Address, Connection, FromWorker, Key, ServerEvent, ToWorker};
use common::job::Job;
use common::journal::{self, Journal, Revisions};
use common::run_dir::RunDir;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

pub(crate) use display::{Display, describe, significant};
use inputs::{Input, Inputs};
use processes::Processes;
pub(crate) use status::{Status, WorkerStatus};

use crate::commands::tail;
use crate::launchers::{LaunchSpec, Launcher};
use crate::slurm::Allocation;
use crate::supervisor::{Command, Event, Options, Outcome, Patience, State, Supervisor};

/// How often `status.json` is replaced.
const STATUS: Duration = Duration::from_secs(1);
/// Messages of workers that may wait for the supervisor.
const INBOX: usize = 1024;
/// Lines of a failed worker's log that go into the journal.
const LOG_LINES: usize = 8;

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
    /// `[cluster]` of the configuration.
    pub(crate) cluster: ClusterConfig,
    /// Hosts that workers may be placed on; none for this host alone. `cluster.nodes` of them are used at a time, the others are spares.
    pub(crate) hosts: Vec<String>,
    /// What is launched, as git knows it.
    pub(crate) revisions: Revisions,
    /// The Slurm allocation that this is in.
    pub(crate) allocation: Option<Allocation>,
    /// How workers are started.
    pub(crate) launcher: Box<dyn Launcher>,
    /// Which workers.
    pub(crate) spec: LaunchSpec,
    /// Floating point operations that training makes of an image.
    pub(crate) flops_per_image: Option<u64>,
}

impl Launch {
    fn options(&self) -> Options {
        let nodes = if self.hosts.is_empty() { 1 } else { self.hosts.len().min(self.cluster.nodes) };
        let patience = Patience { hang: Duration::from_secs(self.cluster.hang_after), ..Patience::default() };
        Options {
            job: self.job,
            hosts: self.hosts.clone(),
            nodes,
            min_nodes: self.cluster.min_nodes.min(nodes),
            workers_per_node: self.spec.workers_per_node,
            max_restarts: self.cluster.max_restarts,
            first_generation: self.first_generation,
            version: env!("CARGO_PKG_VERSION").into(),
            revisions: self.revisions.clone(),
            slurm_job: self.allocation.as_ref().map(|allocation| allocation.job.clone()),
            host: common::place::host_name(),
            patience,
        }
    }
}

/// Runs a launch to its end.
///
/// # Errors
/// What keeps the coordinator itself from working; what happens to workers is part of the outcome.
pub(crate) async fn run(launch: Launch, display: Display) -> anyhow::Result<Outcome> {
    let options = launch.options();
    limits::raise_open_files(options.nodes.saturating_mul(options.workers_per_node))?;
    let ip = interface::choose(launch.cluster.interface.as_deref(), &launch.hosts, &options.host)?;
    let listener = control::bind(ip).await.with_context(|| format!("cannot listen for workers on {ip}"))?;
    let key = Key::generate().context("cannot make a key")?;
    let address = Address {
        address: listener.local_addr()?.to_string(),
        key: key.clone(),
        generation: launch.first_generation,
        pid: std::process::id(),
    };
    let (server_events, from_server) = mpsc::channel(INBOX);
    tokio::spawn(control::serve(listener, key, server_events));
    let (events, own_events) = mpsc::unbounded_channel();
    let inputs = Inputs::new(from_server, own_events, launch.folder.clone())?;
    let started = Instant::now();
    let (known, deadline) = watch::channel(None);
    if let Some(allocation) = &launch.allocation {
        tokio::spawn(slurm_watch::deadlines(allocation.job.clone(), started, events.clone(), known));
    }
    let (supervisor, commands) = Supervisor::start(options, started.elapsed());
    let mut status = Status::first(launch.job, &supervisor, launch.allocation.as_ref());
    status.flops_per_image = launch.flops_per_image;
    let (figures, page) = watch::channel(Arc::new(status.clone()));
    if let Some(address) = &launch.cluster.prometheus {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cluster.prometheus = \"{address}\""))?;
        tokio::spawn(prometheus::serve(listener, page));
    }
    let coordinator = Coordinator {
        launch,
        supervisor,
        started,
        address,
        display,
        status,
        figures,
        deadline,
        status_written: None,
        replies: HashMap::new(),
        processes: None,
        events,
    };
    coordinator.run(inputs, commands).await
}

struct Coordinator {
    launch: Launch,
    supervisor: Supervisor,
    started: Instant,
    address: Address,
    display: Display,
    status: Status,
    /// The status as Prometheus is told it.
    figures: watch::Sender<Arc<Status>>,
    deadline: watch::Receiver<Option<SystemTime>>,
    status_written: Option<(Instant, State)>,
    replies: HashMap<Connection, mpsc::UnboundedSender<ToWorker>>,
    processes: Option<Processes>,
    events: mpsc::UnboundedSender<Event>,
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
                    self.status.take_progress(progress.clone());
                    self.display.progress(progress, self.status.utilisation);
                }
                Event::Said { connection, message }
            }
            ServerEvent::Left { connection, error } => {
                let unreachable = error.as_ref().is_some_and(control::ControlError::is_unreachable);
                Event::Left { connection, error: error.map(|error| error.to_string()), unreachable }
            }
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
            Command::Start { generation, hosts } => self.start(generation, &hosts)?,
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
            Command::Probe { hosts } => {
                let port = self.launch.launcher.probe_port();
                for host in hosts {
                    tokio::spawn(probing::until_it_answers(host, port, self.events.clone()));
                }
            }
            Command::FindReason => {
                if let Some(allocation) = &self.launch.allocation {
                    tokio::spawn(slurm_watch::reason(allocation.job.clone(), self.events.clone()));
                }
            }
            Command::Report { generation, text } => self.report(generation, &text)?,
            Command::Finish(outcome) => return Ok(Some(outcome)),
        }
        Ok(None)
    }

    fn start(&mut self, generation: u64, hosts: &[String]) -> anyhow::Result<()> {
        let folder = &self.launch.folder;
        let logs = folder.log_dir(generation);
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        self.address.generation = generation;
        self.address.write(&folder.coordinator())?;
        let specs = self.launch.launcher.processes(&self.launch.spec, generation, hosts);
        let log = folder.launcher_log(generation);
        self.processes = Some(Processes::start(&specs, generation, &log, &self.events)?);
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

    fn record(&mut self, generation: u64, mut event: journal::Event, reason: &str) -> anyhow::Result<()> {
        match &mut event {
            journal::Event::GenerationStarted { .. } if generation > self.launch.first_generation => self.display.note(reason),
            journal::Event::StopRequested => {
                let save = if self.launch.job.keeps_progress() { "save and " } else { "" };
                self.display.note(&format!("{reason}: the workers {save}end; once more kills them"));
            }
            journal::Event::SaveRequested => self.display.note(&format!("{reason}: the workers save at their next step")),
            journal::Event::HostLost { host } => self.display.note(&format!("lost the host {host}: {reason}")),
            journal::Event::HostBack { host } => self.display.note(&format!("the host {host} is back")),
            journal::Event::CheckedUp { .. } | journal::Event::Setback(_) => self.display.note(reason),
            journal::Event::SlotsCollapsed { step } => {
                self.display.note(&format!("the slots look collapsed after step {step}: {reason}"));
            }
            journal::Event::CheckpointFailed { step } => {
                self.display.note(&format!("the checkpoint of step {step} was not saved, and training goes on: {reason}"));
            }
            journal::Event::Outlier { rank, host } => self.display.note(&format!("rank {rank} on {host}: {reason}")),
            journal::Event::Straggler { rank, host, .. } => self.display.note(&format!("rank {rank} on {host} is slow: {reason}")),
            journal::Event::Failed { rank: Some(rank), log, .. } => {
                *log = tail(&self.launch.folder.log_file(generation, *rank), LOG_LINES).unwrap_or_default();
            }
            _ => {}
        }
        let path = self.launch.folder.journal();
        self.launch.journal.append(generation, event, reason).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps the report on a hang beside the logs of its generation.
    fn report(&mut self, generation: u64, text: &str) -> anyhow::Result<()> {
        let path = self.launch.folder.log_dir(generation).join("hang.txt");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let file = path.display().to_string();
        self.record(generation, journal::Event::HangReport { file }, "what each rank and the threads of those to blame were doing")
    }

    fn write_status(&mut self) -> anyhow::Result<()> {
        self.status.update(&self.supervisor);
        self.status.deadline = self.deadline.borrow().map(|end| humantime::format_rfc3339_seconds(end).to_string());
        self.status_written = Some((Instant::now(), self.status.state));
        if self.launch.cluster.prometheus.is_some() {
            self.figures.send_replace(Arc::new(self.status.clone()));
        }
        let path = self.launch.folder.status();
        self.status.write(&path).with_context(|| format!("cannot write {}", path.display()))
    }
}
