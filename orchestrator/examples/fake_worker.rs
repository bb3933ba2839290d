//! A stand-in for the worker in tests of the orchestrator: it speaks the control protocol and does, on one rank, what
//! `FAKE_WORKER` asks for, with the device that `FAKE_DEVICES` gives it. No libtorch, no MPI, no work.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use common::backend::{Collective, Device};
use common::control::{
    Activity, Checkup, ControlClient, Failure, FailureKind, FromWorker, Hello, Progress, Role, Setback, SetbackKind,
};
use common::job::Job;
use common::run_dir::RunDir;

/// Units of work, and the one at which the misfortune happens.
const TOTAL: u64 = 20;
const FATE: u64 = 8;
const UNIT: Duration = Duration::from_millis(10);
/// Time for all workers to meet.
const MEETING: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--version"] {
        println!("worker {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match work(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// What shall go wrong: on which rank, and up to which generation.
struct Fate {
    action: String,
    last_generation: u64,
}

fn fate(rank: usize) -> Fallible<Option<Fate>> {
    // `ACTION:RANK:LAST_GENERATION`
    let Ok(text) = std::env::var("FAKE_WORKER") else { return Ok(None) };
    let fields: Vec<&str> = text.split(':').collect();
    let [action, unlucky, last_generation] = fields[..] else { return Err(format!("FAKE_WORKER={text}").into()) };
    let fate = Fate { action: action.into(), last_generation: last_generation.parse()? };
    Ok((unlucky.parse::<usize>()? == rank).then_some(fate))
}

/// What the device of this rank is said to do: `FAKE_DEVICES` is `NAME=TFLOPS` for each rank, as `H200=700,H200=300`.
fn checkup(rank: usize) -> Fallible<Option<Checkup>> {
    let Ok(text) = std::env::var("FAKE_DEVICES") else { return Ok(None) };
    let (device, tflops) = text.split(',').nth(rank).and_then(|own| own.split_once('=')).ok_or(format!("FAKE_DEVICES={text}"))?;
    let (memory_total, memory_free) = (141 << 30, 140 << 30);
    let (device, matmul_tflops) = (device.into(), tflops.parse()?);
    let (driver, all_reduce_gbps) = (Some("570.86".into()), Some(300.0));
    Ok(Some(Checkup { device, driver, memory_total, memory_free, matmul_tflops, all_reduce_gbps }))
}

/// What a worker does before NCCL can start. The id of another generation must never be seen.
fn meet(client: &ControlClient, rank: usize, generation: u64) -> Fallible<()> {
    let id = format!("{generation:0256x}");
    if rank == 0 {
        client.offer_rendezvous(id.clone());
    }
    match client.rendezvous(MEETING)? {
        found if found == id => Ok(()),
        found => Err(format!("generation {generation} was sent to {found}").into()),
    }
}

fn number<T: std::str::FromStr>(names: [&str; 2]) -> Option<T> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

fn work(arguments: &[String]) -> Fallible<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [job, "--run-dir", run, "--generation", generation, "--device", device, "--collective", collective] = arguments[..] else {
        return Err(format!("unexpected arguments {arguments:?}").into());
    };
    let (job, generation): (Job, u64) = (job.parse()?, generation.parse()?);
    let (device, collective): (Device, Collective) = (device.parse()?, collective.parse()?);
    let rank: usize = number(["OMPI_COMM_WORLD_RANK", "RANK"]).ok_or("no rank")?;
    let fate = fate(rank)?.filter(|fate| generation <= fate.last_generation);
    let hello = Hello {
        role: Role::Worker,
        rank,
        world: number(["OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"]).ok_or("no world size")?,
        local_rank: rank,
        generation,
        host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        pid: std::process::id(),
        device: device.name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let act = |moment: &str| fate.as_ref().is_some_and(|fate| fate.action == moment);
    if act("die-early") {
        eprintln!("no libmpi for rank {rank}");
        return Ok(ExitCode::FAILURE);
    }
    let client = ControlClient::connect(&RunDir::new(run).job_dir(job), hello, Arc::new(Activity::default()), |reason| {
        // Panics when the launcher, which reads this, was killed; the client has to cope with that.
        eprintln!("{reason}");
        std::process::exit(75);
    })?;
    if let Some(checkup) = checkup(rank)? {
        client.send(FromWorker::Checkup(checkup));
    }
    if collective == Collective::Nccl {
        meet(&client, rank, generation)?;
    }
    let (stop, save) = (client.stop_flag(), client.save_flag());
    let endless = act("endless") || act("deaf");
    let mut done = 0;
    while done < TOTAL || endless {
        sleep(UNIT);
        done += 1;
        let fields = [("loss".to_owned(), 1.0 / done as f64)].into();
        client.send(FromWorker::Progress(Progress { done, total: TOTAL, unit: "scenes".into(), rate: 100.0, fields }));
        if done == FATE && act("skip") {
            client.send(FromWorker::Setback(Setback { step: done, kind: SetbackKind::Skipped }));
        }
        if done == FATE && act("back") {
            client.send(FromWorker::Setback(Setback { step: done, kind: SetbackKind::BackTo(FATE / 2) }));
        }
        if rank == 0 && save.swap(false, Ordering::AcqRel) {
            client.send(FromWorker::CheckpointCommitted { step: done, seconds: 0.001 });
        }
        if done == FATE && act("abort") {
            std::process::abort();
        }
        let failures = [
            ("bad-input", FailureKind::BadInput, "shard 3 is upside down", None),
            ("fault", FailureKind::Fault, "shard 3 is upside down", None),
            ("out-of-memory", FailureKind::OutOfMemory, "2 GiB wanted", Some(8)),
        ];
        if let Some((_, kind, cause, fits)) = failures.into_iter().find(|(moment, ..)| done == FATE && act(moment)) {
            client.finish(FromWorker::Failed(Failure { kind, cause: cause.into(), step: done, fits }));
            return Ok(ExitCode::from(kind.exit_code()));
        }
        if done == FATE && act("leave") {
            return Ok(ExitCode::SUCCESS);
        }
        if stop.load(Ordering::Acquire) && !act("deaf") {
            break;
        }
    }
    client.finish(FromWorker::Finished { summary: serde_json::json!({ "done": done, "rank": rank }), stopped: false });
    Ok(ExitCode::SUCCESS)
}
