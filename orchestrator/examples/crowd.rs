//! A crowd of simulated workers: one process that plays all workers of a launch and the guard of each, over real connections. It shows
//! how the coordinator bears thousands of workers on a machine that could not run a tenth of them.
//!
//! It stands in for `mpirun`, whose arguments end in those of the guards, for `worker --version`, and it writes a data set that a launch
//! accepts (`crowd dataset FOLDER ROWS`). `tests/peers/crowd.py` puts these together.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::control::{
    Address, ControlError, FromWorker, Hello, LineSender, Phase, ProcessEnd, Progress, Pulse, Role, Spent, ToWorker, connect,
};
use common::job::Job;
use common::run_dir::RunDir;
use common::shards::{Column, DType, Schema, ShardWriter};
use common::storage::Store;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, interval_at};

/// Time of a simulated step.
const STEP: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Steps in all: more than anybody waits for.
const STEPS: u64 = 1_000_000;
const STEPS_PER_CHECKPOINT: u64 = 20;
const WORKERS_PER_HOST: usize = 8;
/// Process ids from here on belong to nobody.
const NO_PROCESS: u32 = 1 << 30;
const SIGKILL: ProcessEnd = ProcessEnd::Signal(9);

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--version"] => {
            println!("worker {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["dataset", folder, rows] => write_dataset(folder, rows),
        _ => play_all(&arguments),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// A data set with rows and nothing worth reading in them.
fn write_dataset(folder: &str, rows: &str) -> Fallible<()> {
    let rows = rows.parse()?;
    let schema = Schema { columns: vec![Column::hot("nothing", DType::U8, &[1])] };
    runtime()?.block_on(async {
        let writer =
            ShardWriter::open(Store::open(folder)?, schema, serde_json::json!({"scaling_factor": 1.0}), rows, rows).await?;
        writer.write_shard(0, &[vec![0; usize::try_from(rows)?]]).await?;
        writer.commit().await?;
        Ok(())
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What the launcher was to start.
fn play_all(arguments: &[&str]) -> Fallible<()> {
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| *argument == name).ok_or_else(|| format!("no {name}"))?;
        Ok::<_, String>((place, *arguments.get(place + 1).ok_or_else(|| format!("nothing after {name}"))?))
    };
    let world: usize = after("-np")?.1.parse()?;
    let (place, folder) = after("--run-dir")?;
    let job: Job = arguments.get(place.saturating_sub(1)).ok_or("no job")?.parse()?;
    let generation = after("--generation")?.1.parse()?;
    let address = Address::read(&RunDir::new(Path::new(folder)).job_dir(job).coordinator())?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    runtime()?.block_on(async {
        let (steps, _) = watch::channel(0);
        let crowd = Arc::new(Crowd { address, world, generation, started: Instant::now(), joined: AtomicUsize::new(0), steps });
        tokio::spawn(crowd.clone().take_steps());
        let members: Vec<_> = (0..world).map(|rank| tokio::spawn(crowd.clone().play(rank))).collect();
        for member in members {
            member.await??;
        }
        Ok(())
    })
}

/// What all members share.
struct Crowd {
    address: Address,
    world: usize,
    generation: u64,
    started: Instant,
    joined: AtomicUsize,
    /// Steps done.
    steps: watch::Sender<u64>,
}

/// One line to the coordinator.
struct Line {
    say: LineSender,
    heard: mpsc::UnboundedReceiver<ToWorker>,
}

impl Crowd {
    /// Steps follow each other as soon as everybody is there.
    async fn take_steps(self: Arc<Self>) {
        let mut clock = interval(STEP);
        loop {
            clock.tick().await;
            if self.joined.load(Ordering::Relaxed) == self.world {
                self.steps.send_modify(|step| *step += 1);
            }
        }
    }

    /// One rank from its start to its end: first its guard, then the worker.
    async fn play(self: Arc<Self>, rank: usize) -> Result<(), ControlError> {
        let mut guard = self.join(rank, Role::Guard).await?;
        let mut worker = self.join(rank, Role::Worker).await?;
        self.joined.fetch_add(1, Ordering::Relaxed);
        let end = self.live(rank, &mut worker, &mut guard).await?;
        if end == SIGKILL {
            drop(worker);
        } else {
            worker.say.finish(&mut worker.heard).await;
        }
        guard.say.send(&FromWorker::Ended { end, out_of_memory: false }).await?;
        guard.say.finish(&mut guard.heard).await;
        Ok(())
    }

    async fn join(&self, rank: usize, role: Role) -> Result<Line, ControlError> {
        let hello = Hello {
            role,
            rank,
            world: self.world,
            local_rank: rank % WORKERS_PER_HOST,
            generation: self.generation,
            host: format!("simulated-{:04}", rank / WORKERS_PER_HOST),
            pid: NO_PROCESS + u32::try_from(rank).unwrap_or_default(),
            device: "none".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let (say, heard) = connect(&self.address, hello).await?.1.listen();
        Ok(Line { say, heard })
    }

    /// What a worker says while it lives. Its heartbeats have a place in the second of their own.
    async fn live(&self, rank: usize, worker: &mut Line, guard: &mut Line) -> Result<ProcessEnd, ControlError> {
        let place = HEARTBEAT.mul_f64(rank as f64 / self.world as f64);
        let mut heartbeat = interval_at(tokio::time::Instant::now() + place, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = self.steps.subscribe();
        let mut stopping = false;
        loop {
            tokio::select! {
                _ = heartbeat.tick() => {
                    let pulse = self.pulse(rank, *steps.borrow());
                    worker.say.send(&FromWorker::Heartbeat(pulse)).await?;
                }
                _ = steps.changed() => {
                    let step = *steps.borrow_and_update();
                    self.take_step(rank, step, stopping, worker).await?;
                    if stopping {
                        return Ok(ProcessEnd::Code(0));
                    }
                }
                message = worker.heard.recv() => match message {
                    Some(ToWorker::Stop { .. }) => stopping = true,
                    Some(ToWorker::Kill { .. }) | None => return Ok(SIGKILL),
                    Some(ToWorker::Welcome { .. } | ToWorker::Save { .. } | ToWorker::Stacks | ToWorker::Rendezvous { .. }) => {}
                },
                message = guard.heard.recv() => match message {
                    Some(ToWorker::Stacks) => guard.say.send(&FromWorker::Stacks { text: "nothing".into() }).await?,
                    Some(ToWorker::Kill { .. }) | None => return Ok(SIGKILL),
                    Some(ToWorker::Welcome { .. } | ToWorker::Save { .. } | ToWorker::Stop { .. } | ToWorker::Rendezvous { .. }) => {}
                },
            }
        }
    }

    /// What a worker says about a step, the last one if it is `stopping`.
    async fn take_step(&self, rank: usize, step: u64, stopping: bool, worker: &mut Line) -> Result<(), ControlError> {
        if step == 1 {
            worker.say.send(&FromWorker::FirstStep { step }).await?;
        }
        if rank == 0 {
            let fields = [("loss", 1.0 / step as f64), ("grad_norm", 0.5), ("images_per_second", 4096.0), ("data_stall", 0.01)];
            let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
            let rate = 1.0 / STEP.as_secs_f64();
            worker
                .say
                .send(&FromWorker::Progress(Progress { done: step, total: STEPS, unit: "steps".into(), rate, fields }))
                .await?;
            if stopping || step.is_multiple_of(STEPS_PER_CHECKPOINT) {
                worker.say.send(&FromWorker::CheckpointCommitted { step, seconds: 1.5 }).await?;
            }
        }
        if stopping {
            worker.say.send(&FromWorker::Finished { summary: serde_json::json!({ "steps": step }), stopped: true }).await?;
        }
        Ok(())
    }

    /// A worker that computes most of the time, some ranks a little faster than others, which they then wait for.
    fn pulse(&self, rank: usize, step: u64) -> Pulse {
        let elapsed = self.started.elapsed().as_secs_f64();
        let compute = 0.7 + 0.02 * (rank % 7) as f64;
        let spent = Spent {
            starting: 1.0,
            data: 0.02 * elapsed,
            compute: compute * elapsed,
            collective: (0.97 - compute) * elapsed,
            checkpoint: 0.01 * elapsed,
            evaluate: 0.0,
        };
        let phase = if (rank as u64 + step).is_multiple_of(4) { Phase::Collective } else { Phase::Compute };
        Pulse { step, phase, phase_seconds: 0.123_456 + (rank % 10) as f64 / 30.0, spent }
    }
}
