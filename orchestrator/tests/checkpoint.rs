//! `orchestrator checkpoint`, and SIGUSR2, of launches with real processes: the orchestrator as users start it, with a stand-in for the
//! worker (`examples/fake_worker.rs`).

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::journal::{self, Event};
use common::run_dir::RunDir;
use common::shards::{Column, DType, Schema, ShardWriter};
use common::storage::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const CONFIG: &str = include_str!("../../configs/quickstart.toml");
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration and a data set of one batch, which is enough to be launched.
struct Lab {
    folder: tempfile::TempDir,
    worker: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("quickstart.toml"), CONFIG).unwrap();
        let worker = Path::new(env!("CARGO_BIN_EXE_orchestrator")).with_file_name("examples").join("fake_worker");
        assert!(worker.is_file(), "{} is missing: `cargo test` builds it with all targets", worker.display());
        let store = Store::open(folder.path().join("latents").to_str().unwrap()).unwrap().child("train");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let schema = Schema { columns: vec![Column::hot("moments", DType::U8, &[1])] };
            let writer = ShardWriter::open(store, schema, json!({"scaling_factor": 1.0}), 16, 16).await.unwrap();
            writer.write_shard(0, &[vec![1; 16]]).await.unwrap();
            writer.commit().await.unwrap();
        });
        Self { folder, worker }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.args(arguments).current_dir(self.folder.path()).env("LSD_WORKER", &self.worker).env("FAKE_WORKER", "endless:0:99");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a launch and waits until all workers have reported.
    fn running(&self, job: &str) -> Child {
        let set = ["--workers", "2", "--set", "data.latents=latents", "--set", "cluster.device=cpu"];
        let set = [&set[..], &["--set", "train.evaluation.every_steps=0"]].concat();
        let nccl = ["--set", "cluster.collective=nccl"];
        let arguments = [&["launch", "--config", "quickstart.toml", "--job", job], &set[..], &nccl].concat();
        let mut child = self.command(&arguments).spawn().unwrap();
        let journal = RunDir::new(self.folder.path().join("runs/quickstart")).job_dir(job.parse().unwrap()).journal();
        self.until(|| {
            if child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the launch has ended: {said}");
            }
            events(&journal).contains(&Event::Running)
        });
        child
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(&[&["checkpoint", "runs/quickstart"], arguments].concat()).output().unwrap()
    }

    fn until(&self, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn events(journal: &Path) -> Vec<Event> {
    journal::read(journal).unwrap().into_iter().map(|entry| entry.event).collect()
}

fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    text
}

fn stop(mut child: Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_running_training_saves_when_asked_and_goes_on() {
    let lab = Lab::new();
    assert!(one_line(&lab.ask(&[])).contains("runs/quickstart: nothing is running here"));
    let child = lab.running("train");
    let answer: Value = serde_json::from_slice(&lab.ask(&["--json"]).stdout).unwrap();
    let first = answer["step"].as_u64().unwrap();
    assert!(first > 0 && answer["seconds"].is_number(), "{answer}");
    let text = String::from_utf8(lab.ask(&[]).stdout).unwrap();
    let second: u64 = text.strip_prefix("checkpoint of step ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(second > first, "{second} after {first}");

    let journal = RunDir::new(lab.folder.path().join("runs/quickstart")).journal();
    let committed = || events(&journal).iter().filter(|event| matches!(event, Event::CheckpointCommitted { .. })).count();
    assert_eq!(committed(), 2);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGUSR2).unwrap();
    lab.until(|| committed() == 3);
    // As `scancel --signal=USR2` does it: to what the launcher has started, which are the guards. Rank 1 has no more to do and is gone.
    let rank_0 = |event: &Event| if let Event::WorkerJoined { rank: 0, pid, .. } = event { Some(*pid) } else { None };
    let worker = events(&journal).iter().find_map(rank_0).unwrap();
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let guard = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    kill(Pid::from_raw(guard), Signal::SIGUSR2).unwrap();
    lab.until(|| committed() == 4);
    let asked = events(&journal).iter().filter(|event| **event == Event::SaveRequested).count();
    assert_eq!(asked, 4);
    stop(child);
    assert!(one_line(&lab.ask(&[])).contains("nothing is running here"));
}

#[test]
fn another_job_has_nothing_to_save() {
    let lab = Lab::new();
    let child = lab.running("scenes");
    let line = one_line(&lab.ask(&["--json"]));
    assert!(line.contains("the job scenes, and only train saves checkpoints"), "{line}");
    stop(child);
}
