//! The worker's command line: one process of one job. `orchestrator launch` starts it; by hand it runs with `--standalone`.

use anyhow::Context;
use clap::Parser;
use common::backend::{self, Backend};
use common::config::{Config, load};
use common::control::{Activity, ControlClient, Failure, FailureKind, FromWorker, Hello, Phase, Role};
use common::job::Job;
use common::place::{Place, host_name};
use common::run_dir::RunDir;
use common::telemetry;
use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tch::Device;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use worker::collectives::{self, Collective, CollectiveError, Communicator, Meet};
use worker::device;
use worker::jobs::{
    self, BadInput, JobContext, Reporter, SaveFlag, StopFlag, failure_kind, is_out_of_memory, libtorch_cause, one_line,
};
use worker::training::graph::is_attempt;

/// How long rank 0 may take to say where workers meet. If it fails before, the coordinator ends this process earlier.
const MEET_WITHIN: Duration = Duration::from_secs(600);

/// One worker of a run: started once per device by `orchestrator launch`, through mpirun or directly.
#[derive(Debug, Parser)]
#[command(version = env!("VERSION_AND_REVISION"))]
struct Arguments {
    /// What to do: scenes, import, autoencoder, encode, train, evaluate, probe, concepts, compose or edit.
    job: Job,
    /// The run's folder; the job's configuration is in run.toml there, or in jobs/JOB/run.toml.
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Which start of the job this is, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    generation: u64,
    /// Run without a coordinator and log to standard error.
    #[arg(long)]
    standalone: bool,
    /// What to compute on: cpu or cuda. The coordinator says; if nobody does, it follows from cluster.device and this machine.
    #[arg(long)]
    device: Option<backend::Device>,
    /// What carries the gradients: solo, mpi or nccl.
    #[arg(long)]
    collective: Option<backend::Collective>,
    /// Of the `train` job: profile this many steps, instead of train.profile_steps.
    #[arg(long, value_name = "STEPS")]
    profile: Option<u64>,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(failure_kind(&error).exit_code())
        }
    }
}

/// Everything up to the job, the job, and its last words. Returns the exit code; errors are those that the coordinator cannot be told.
fn start(arguments: &Arguments) -> anyhow::Result<u8> {
    if !arguments.standalone {
        // Its parent is its guard: without that nobody could end it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    let place = Place::detect(|name| std::env::var(name).ok(), arguments.generation).map_err(BadInput::new)?;
    let run = RunDir::new(&arguments.run_dir);
    let job_dir = run.job_dir(arguments.job);
    let log_file = (!arguments.standalone).then(|| job_dir.log_file(place.generation, place.rank));
    telemetry::init(log_file.as_deref(), Some(place.rank)).map_err(BadInput::new)?;
    let config = load::from_file(&job_dir.run_toml(), &[]).map_err(BadInput::new)?;
    // Tensors have the cores; storage and control need little.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let activity = Arc::new(Activity::default());
    let (reporter, stop, save) = if arguments.standalone {
        (Reporter::log_only(), StopFlag::default(), SaveFlag::default())
    } else {
        let client = ControlClient::connect(&job_dir, hello(place, arguments), activity.clone(), die)
            .context("pass --standalone to run without a coordinator")?;
        let (stop, save) = (StopFlag::sharing(client.stop_flag()), SaveFlag::sharing(client.save_flag()));
        (Reporter::to_coordinator(client, activity), stop, save)
    };
    heed_signals(&runtime, &stop, &save)?;
    report_panics(reporter.clone(), arguments, &config, place);
    Ok(run_job(arguments, config, run, place, &reporter, (stop, save), &runtime))
}

/// Runs the job and tells the coordinator how it ended. Returns the exit code.
fn run_job(
    arguments: &Arguments,
    config: Config,
    run: RunDir,
    place: Place,
    reporter: &Reporter,
    (stop, save): (StopFlag, SaveFlag),
    runtime: &Runtime,
) -> u8 {
    let (job, job_dir) = (arguments.job, run.job_dir(arguments.job));
    let runtime = runtime.handle().clone();
    let (collective, device) = match connect(arguments, &config, place, reporter) {
        Ok(connected) => connected,
        Err(error) => return fail(&error, reporter),
    };
    reporter.enter(Phase::Starting);
    let profile = arguments.profile.unwrap_or(config.train.profile_steps);
    let mut context =
        JobContext { config, run, job_dir, place, collective, reporter: reporter.clone(), stop, save, runtime, device, profile };
    let (rank, world, generation) = (place.rank, place.world, place.generation);
    tracing::info!(rank, world, generation, "{job} on {}", device::describe(device));
    match jobs::run(job, &mut context) {
        Ok(summary) => {
            tracing::info!("{job} is done: {summary}");
            let stopped = summary["stopped"].as_bool().unwrap_or(false);
            reporter.finish(FromWorker::Finished { summary, stopped });
            0
        }
        Err(error) => {
            let code = fail_saying(&error, reporter, || device::micro_batch_that_fits(&context.config, device, place));
            if place.world > 1 {
                // Nobody shall wait for this worker. The coordinator knows the cause by now.
                context.collective.abort(code);
            }
            code
        }
    }
}

/// The device, and the other workers.
fn connect(arguments: &Arguments, config: &Config, place: Place, reporter: &Reporter) -> anyhow::Result<(Communicator, Device)> {
    let resolve = || Backend::resolve(&config.cluster, place.world, backend::gpus_of_this_host).map_err(BadInput::new);
    let backend = match (arguments.device, arguments.collective) {
        (Some(device), Some(collective)) => Backend { device, collective },
        (device, collective) => {
            let resolved = resolve()?;
            Backend { device: device.unwrap_or(resolved.device), collective: collective.unwrap_or(resolved.collective) }
        }
    };
    set_threads(config);
    let device = device::select(backend.device, place)?;
    device::set_numerics(&config.train, device)?;
    reporter.enter(Phase::Connecting);
    let meeting = reporter.clone();
    let meet: Meet = Box::new(move |own| {
        let refused = |cause| CollectiveError::Transport { operation: "rendezvous", cause };
        meeting.meet(own, MEET_WITHIN).map_err(refused)
    });
    let connect = move || collectives::connect(backend.collective, place, device, meet);
    Ok((Communicator::start(connect, device, reporter.activity().clone())?, device))
}

fn fail(error: &anyhow::Error, reporter: &Reporter) -> u8 {
    fail_saying(error, reporter, || None)
}

/// `fits` says which micro batch would have had room, for a failure for want of memory.
fn fail_saying(error: &anyhow::Error, reporter: &Reporter, fits: impl FnOnce() -> Option<usize>) -> u8 {
    let (kind, cause) = (failure_kind(error), one_line(error));
    let fits = if kind == FailureKind::OutOfMemory { fits() } else { None };
    tracing::error!("{cause}");
    eprintln!("error: {cause}");
    reporter.finish(FromWorker::Failed(Failure { kind, cause, step: reporter.done(), fits }));
    kind.exit_code()
}

fn hello(place: Place, arguments: &Arguments) -> Hello {
    Hello {
        role: Role::Worker,
        rank: place.rank,
        world: place.world,
        local_rank: place.local_rank,
        generation: place.generation,
        host: host_name(),
        pid: std::process::id(),
        device: match arguments.device {
            Some(backend::Device::Cuda) => format!("cuda:{}", place.local_rank),
            _ => "cpu".into(),
        },
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// The kill switch. Neither destructors nor exit handlers run: the main thread may be inside of MPI or libtorch.
fn die(reason: String) {
    tracing::error!("{reason}");
    let _ = raise(Signal::SIGKILL);
}

/// SIGTERM, SIGINT and SIGUSR1 ask to save and end, SIGUSR2 to save and go on.
fn heed_signals(runtime: &Runtime, stop: &StopFlag, save: &SaveFlag) -> anyhow::Result<()> {
    let _entered = runtime.enter();
    let (mut wishes, save) = (signal(SignalKind::user_defined2())?, save.clone());
    Handle::current().spawn(async move {
        while wishes.recv().await.is_some() {
            tracing::info!("saving at the next step: SIGUSR2");
            save.request();
        }
    });
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::user_defined1()] {
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        Handle::current().spawn(async move {
            while signals.recv().await.is_some() {
                tracing::info!("stopping at the next step: signal {}", kind.as_raw_value());
                stop.request();
            }
        });
    }
    Ok(())
}

/// A panic is a bug of this program: its cause shall be in the log and in the journal, not only on standard error.
fn report_panics(reporter: Reporter, arguments: &Arguments, config: &Config, place: Place) {
    let print = std::panic::take_hook();
    let device = match arguments.device {
        Some(backend::Device::Cuda) => Device::Cuda(place.local_rank),
        _ => Device::Cpu,
    };
    let config = config.clone();
    std::panic::set_hook(Box::new(move |panic| {
        if is_attempt() {
            return;
        }
        let text = panic.to_string();
        // libtorch's want of memory ends in a panic, too; where in the program that was says nothing.
        if !is_out_of_memory(&text) {
            print(panic);
        }
        let fits = || device::micro_batch_that_fits(&config, device, place);
        fail_saying(&anyhow::anyhow!("{}", libtorch_cause(&text).unwrap_or(&text)), &reporter, fits);
    }));
}

/// CPU threads per worker: as configured, else as the launcher says by `OMP_NUM_THREADS`, else a share of the host's cores.
fn set_threads(config: &Config) {
    let cluster = &config.cluster;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let environment = std::env::var("OMP_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
    let threads = match cluster.threads_per_worker {
        0 => environment.unwrap_or(cores / cluster.workers_per_node.max(1)),
        threads => threads,
    };
    tch::set_num_threads(threads.max(1) as i32);
}
