//! The coordinator under a crowd: 256 simulated workers and their guards (`examples/crowd.rs`) cost it next to nothing. For thousands
//! there is `tests/peers/crowd.py`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::journal::{self, Event};
use common::run_dir::RunDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

const CONFIG: &str = include_str!("../../configs/quickstart.toml");
const WORKERS: usize = 256;
const MEASURED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Each about four times what was seen, so that a busy machine does not matter and a cost that grows with the square of the crowd shows.
const MOST_CPU: f64 = 0.06;
const MOST_KIB: u64 = 48 << 10;
const MOST_STATUS: Duration = Duration::from_millis(100);

/// A launch of the crowd in a folder of its own.
struct Launch {
    folder: tempfile::TempDir,
    process: Child,
}

impl Launch {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("crowd.toml"), CONFIG).unwrap();
        let crowd = Path::new(env!("CARGO_BIN_EXE_orchestrator")).with_file_name("examples").join("crowd");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(&crowd, bin.join("mpirun")).unwrap();
        let data = folder.path().join("data/train");
        assert!(Command::new(&crowd).arg("dataset").arg(data).arg(WORKERS.to_string()).status().unwrap().success());
        let settings = [
            "run.name=crowd".into(),
            "data.latents=data".into(),
            "train.evaluation.every_steps=0".into(),
            "cluster.launcher=mpirun".into(),
            format!("train.global_batch={WORKERS}"),
            format!("autoencoder.train.global_batch={WORKERS}"),
            format!("cluster.workers_per_node={WORKERS}"),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.args(["launch", "--config", "crowd.toml"]).current_dir(folder.path()).env("LSD_WORKER", &crowd);
        for setting in settings {
            command.args(["--set", &setting]);
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let process = command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { folder, process }
    }

    fn run(&self) -> RunDir {
        RunDir::new(self.folder.path().join("runs/crowd"))
    }

    fn events(&self) -> Vec<Event> {
        journal::read(&self.run().journal()).unwrap().into_iter().map(|entry| entry.event).collect()
    }

    fn wait_for(&mut self, event: &Event) {
        let started = Instant::now();
        while !self.events().contains(event) {
            assert!(started.elapsed() < PATIENCE && self.process.try_wait().unwrap().is_none(), "no {event:?}");
            sleep(Duration::from_millis(20));
        }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(PathBuf::from(format!("/proc/{}", self.process.id())).join(file)).unwrap()
    }

    /// Processor time so far in seconds.
    fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = [11, 12].into_iter().map(|field: usize| fields[field].parse::<f64>().unwrap()).sum();
        ticks / sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64
    }

    /// The largest resident size so far in KiB.
    fn memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn ask_for_status(&self) -> Duration {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        let output = command.args(["status", "runs/crowd"]).current_dir(self.folder.path()).output().unwrap();
        assert!(output.status.success());
        started.elapsed()
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_crowd_is_welcomed_watched_and_stopped_at_little_cost() {
    let mut launch = Launch::start();
    launch.wait_for(&Event::Running);
    let (begun, before) = (Instant::now(), launch.cpu());
    let mut asked: Vec<Duration> = (0..5).map(|_| launch.ask_for_status()).collect();
    sleep(MEASURED.saturating_sub(begun.elapsed()));
    let share = (launch.cpu() - before) / begun.elapsed().as_secs_f64();
    asked.sort_unstable();
    assert!(share < MOST_CPU, "{share:.3} of a core");
    assert!(launch.memory() < MOST_KIB, "{} KiB", launch.memory());
    assert!(asked[2] < MOST_STATUS, "status took {asked:?}");

    kill(Pid::from_raw(i32::try_from(launch.process.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(launch.process.wait().unwrap().code(), Some(130));
    let joined = launch.events().iter().filter(|event| matches!(event, Event::WorkerJoined { .. })).count();
    assert_eq!(joined, WORKERS);
    assert!(!launch.events().iter().any(|event| matches!(event, Event::Failed { .. })), "{:?}", launch.events());
}
