//! Launches with real processes: the orchestrator as users start it, with a stand-in for the worker (`examples/fake_worker.rs`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::journal::{self, Event};
use common::run_dir::RunDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const CONFIG: &str = include_str!("../../configs/quickstart.toml");
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, and the orchestrator to run there.
struct Lab {
    folder: tempfile::TempDir,
    worker: PathBuf,
    fate: &'static str,
}

impl Lab {
    /// `fate` is `ACTION:RANK:LAST_GENERATION`, or empty for a worker without misfortunes.
    fn new(fate: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("quickstart.toml"), CONFIG).unwrap();
        let worker = Path::new(env!("CARGO_BIN_EXE_orchestrator")).with_file_name("examples").join("fake_worker");
        assert!(worker.is_file(), "{} is missing: `cargo test` builds it with all targets", worker.display());
        Self { folder, worker, fate }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.args(arguments).current_dir(self.folder.path()).env("LSD_WORKER", &self.worker).env_remove("FAKE_WORKER");
        if !self.fate.is_empty() {
            command.env("FAKE_WORKER", self.fate);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn launch(&self, arguments: &[&str]) -> Output {
        self.command(&[&["launch", "--config", "quickstart.toml", "--job", "scenes"], arguments].concat()).output().unwrap()
    }

    fn job(&self) -> RunDir {
        RunDir::new(self.folder.path().join("runs/quickstart/jobs/scenes"))
    }

    fn events(&self) -> Vec<Event> {
        journal::read(&self.job().journal()).unwrap().into_iter().map(|entry| entry.event).collect()
    }

    /// Starts a launch and waits until all workers have reported.
    fn running(&self, arguments: &[&str]) -> Child {
        let mut child =
            self.command(&[&["launch", "--config", "quickstart.toml", "--job", "scenes"], arguments].concat()).spawn().unwrap();
        let started = Instant::now();
        while !self.events().contains(&Event::Running) {
            assert!(started.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "never running");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// Process ids of the workers of the newest generation.
    fn workers(&self) -> Vec<Pid> {
        let pid = |event| if let Event::WorkerJoined { pid, rank, .. } = event { Some((rank, pid)) } else { None };
        let mut workers: Vec<(usize, u32)> = self.events().into_iter().filter_map(pid).collect();
        workers.sort_unstable();
        workers.into_iter().map(|(_, pid)| Pid::from_raw(i32::try_from(pid).unwrap())).collect()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn one_line(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!((code(output), text.lines().count()), (2, 1), "{text}");
    text
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn gone(pids: &[Pid]) {
    let started = Instant::now();
    while pids.iter().any(|pid| kill(*pid, None).is_ok()) {
        assert!(started.elapsed() < PATIENCE, "workers outlive their coordinator");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_worker_and_several_finish_and_the_summary_is_rank_0_s() {
    for workers in ["1", "3"] {
        let lab = Lab::new("");
        let output = lab.launch(&[
            "--json",
            "--workers",
            workers,
            "--set",
            "train.global_batch=30",
            "--set",
            "autoencoder.train.global_batch=30",
        ]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!({"done": 20, "rank": 0}));
        assert_eq!(lab.workers().len().to_string(), workers);
        assert_eq!(lab.events().last(), Some(&Event::Finished));
        assert!(!lab.job().coordinator().exists(), "the key outlives the launch");
        let again = lab.launch(&[
            "--json",
            "--workers",
            workers,
            "--set",
            "train.global_batch=30",
            "--set",
            "autoencoder.train.global_batch=30",
        ]);
        assert_eq!(code(&again), 0, "a data job may run again: {}", stderr(&again));
    }
}

/// Workers that meet in NCCL, which they never do here, on CPUs.
const NCCL: [&str; 4] = ["--set", "cluster.device=cpu", "--set", "cluster.collective=nccl"];

#[test]
fn workers_that_need_no_mpi_are_plain_children_that_fail_and_start_again_together() {
    let lab = Lab::new("abort:1:1");
    let mut command = lab.command(&[&["launch", "--config", "quickstart.toml", "--job", "scenes"], &NCCL[..]].concat());
    // No mpirun, and the launch is itself a task of somebody's Slurm step.
    let output = command.env("PATH", lab.folder.path()).env("SLURM_PROCID", "7").env("SLURM_NTASKS", "9").output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("restart 1 of 3: rank 1 on ") && text.contains("killed by signal 6 (SIGABRT)"), "{text}");
    assert_eq!(lab.workers().len(), 4, "two generations of two");
}

#[test]
fn one_plain_child_that_dies_early_ends_the_others_and_is_named() {
    let lab = Lab::new("die-early:1:99");
    let output = lab.launch(&[&NCCL[..], &["--set", "cluster.max_restarts=0"]].concat());
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("no libmpi for rank 1"), "{}", stderr(&output));
    gone(&lab.workers());
}

#[test]
fn mpirun_starts_workers_that_never_meet_in_mpi() {
    let lab = Lab::new("");
    let output = lab.launch(&[&NCCL[..], &["--json", "--set", "cluster.launcher=mpirun"]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!({"done": 20, "rank": 0}));
}

#[test]
fn gpus_that_are_not_there_and_mpi_between_gpus_are_refused_before_anything_is_written() {
    let lab = Lab::new("");
    let refused = |settings: &[&str], environment: &[(&str, &str)]| {
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let mut command = lab.command(&[&["launch", "--config", "quickstart.toml", "--job", "scenes"], &arguments[..]].concat());
        one_line(&command.envs(environment.iter().copied()).output().unwrap())
    };
    let line = refused(&["cluster.device=cuda"], &[("CUDA_VISIBLE_DEVICES", "")]);
    assert!(line.contains("cluster.device = \"cuda\"") && line.contains("no NVIDIA GPU"), "{line}");
    let line = refused(&["cluster.device=cuda", "cluster.collective=mpi"], &[]);
    assert!(line.contains("cluster.collective = \"mpi\"") && line.contains("\"nccl\""), "{line}");
    let line = refused(&["cluster.device=cpu", "cluster.launcher=local"], &[]);
    assert!(line.contains("cluster.launcher = \"local\"") && line.contains("2 workers"), "{line}");
    assert!(!lab.folder.path().join("runs").exists());
}

#[test]
fn devices_are_compared_before_the_first_step_and_mixed_ones_end_the_launch() {
    let lab = Lab::new("");
    let launch = |devices: &str| {
        let mut command = lab.command(&[&["launch", "--config", "quickstart.toml", "--job", "scenes"], &NCCL[..]].concat());
        command.env("FAKE_DEVICES", devices).output().unwrap()
    };
    let output = launch("NVIDIA H200=700,NVIDIA H200=300");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let (text, host) = (String::from_utf8_lossy(&output.stdout).into_owned(), common::place::host_name());
    let devices = format!("2 x NVIDIA H200, matmul 300 (rank 1 on {host}) to 700 TFLOP/s, all-reduce 300 GB/s; one stands out");
    let outlier =
        format!("rank 1 on {host}: matrix products at 300 TFLOP/s, the others' median is 700: is the device throttled, or shared?");
    for words in [&devices, &outlier] {
        assert!(text.lines().any(|line| line == words), "{words} is not in {text}");
    }
    let checked = |event: &Event| matches!(event, Event::WorkerChecked { rank: 1, checkup } if checkup.matmul_tflops == 300.0);
    assert!(lab.events().iter().any(checked));
    let ask = |arguments: &[&str]| String::from_utf8(lab.command(arguments).output().unwrap().stdout).unwrap();
    assert!(ask(&["status", "runs/quickstart"]).contains(&outlier));
    let why = ask(&["why", "runs/quickstart"]);
    assert!(why.starts_with("nothing has failed\n") && why.contains(&outlier), "{why}");
    let status: Value = serde_json::from_str(&ask(&["status", "runs/quickstart", "--json"])).unwrap();
    assert_eq!((&status[0]["checkup"]["total_tflops"], &status[0]["checkup"]["outliers"][0]["rank"]), (&json!(1000.0), &json!(1)));

    let line = one_line(&launch("NVIDIA H200=700,NVIDIA A100=300"));
    let mixed = format!("error: mixed devices: NVIDIA A100 is on rank 1 ({host}), NVIDIA H200 is on rank 0 ({host}); ");
    assert!(line.starts_with(&mixed) && line.contains("cluster.slurm.constraint"), "{line}");
}

#[test]
fn steps_whose_gradients_are_no_numbers_are_told_without_ending_the_run() {
    let told = [
        ("skip:0:99", "step 8 was skipped: its gradients were no numbers", "setbacks      1 step skipped: "),
        (
            "back:0:99",
            "went back from step 8, whose gradients were no numbers, to the checkpoint of step 4",
            "setbacks      went back to a checkpoint 1 time: ",
        ),
    ];
    for (fate, sentence, counted) in told {
        let lab = Lab::new(fate);
        let output = lab.launch(&[&NCCL[..], &["--workers", "1"]].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == sentence));
        let ask = |command: &str| String::from_utf8(lab.command(&[command, "runs/quickstart"]).output().unwrap().stdout).unwrap();
        assert!(ask("why").contains(&format!("  {sentence}\n")), "{}", ask("why"));
        assert!(ask("status").contains(counted), "{}", ask("status"));
    }
}

#[test]
fn a_crash_on_one_rank_is_named_and_the_next_generation_finishes() {
    let lab = Lab::new("abort:1:1");
    let output = lab.launch(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("restart 1 of 3: rank 1 on ") && text.contains("killed by signal 6 (SIGABRT)"), "{text}");
    let failures: Vec<Event> = lab.events().into_iter().filter(|event| matches!(event, Event::Failed { .. })).collect();
    assert!(matches!(failures[..], [Event::Failed { rank: Some(1), .. }]), "{failures:?}");
}

#[test]
fn restarts_end_with_exit_code_3_and_without_any_with_1() {
    let lab = Lab::new("fault:0:99");
    let output = lab.launch(&["--set", "cluster.max_restarts=1"]);
    assert_eq!(code(&output), 3);
    assert!(
        stderr(&output).contains("error: rank 0 on ")
            && stderr(&output).contains(": shard 3 is upside down (generation 2, step 8)"),
        "{}",
        stderr(&output)
    );
    let output = lab.launch(&["--set", "cluster.max_restarts=0"]);
    assert_eq!(code(&output), 1);
}

#[test]
fn a_worker_that_dies_before_it_reports_shows_its_last_words() {
    let lab = Lab::new("die-early:0:99");
    let output = lab.launch(&["--set", "cluster.max_restarts=0", "--workers", "1"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no libmpi for rank 0"), "{}", stderr(&output));
}

#[test]
fn a_worker_without_memory_says_what_would_fit() {
    let lab = Lab::new("out-of-memory:1:99");
    let output = lab.launch(&[&NCCL[..], &["--set", "cluster.max_restarts=0"]].concat());
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert!(
        stderr(&output).contains(": 2 GiB wanted; train.micro_batch = 8 would fit (generation 1, step 8)"),
        "{}",
        stderr(&output)
    );
    let why = String::from_utf8(lab.command(&["why", "runs/quickstart"]).output().unwrap().stdout).unwrap();
    assert!(why.contains("out of memory: 2 GiB wanted; train.micro_batch = 8 would fit\n"), "{why}");
}

#[test]
fn bad_input_found_by_a_worker_ends_the_launch_in_one_line() {
    let line = one_line(&Lab::new("bad-input:1:99").launch(&[]));
    assert!(line.starts_with("error: rank 1 on ") && line.ends_with(": shard 3 is upside down\n"), "{line}");
}

#[test]
fn sigkill_of_a_worker_is_told_by_its_signal() {
    let lab = Lab::new("endless:1:1");
    let child = lab.running(&[]);
    kill(lab.workers()[1], Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("rank 1") && text.contains("SIGKILL"), "{text}");
}

#[test]
fn ctrl_c_lets_the_workers_finish_in_order() {
    for (asked, expected) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let lab = Lab::new("endless:0:99");
        let child = lab.running(&[]);
        signal(&child, asked);
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), expected);
        assert!(stderr(&output).contains("stopped in order"), "{}", stderr(&output));
        gone(&lab.workers());
    }
}

#[test]
fn a_second_ctrl_c_kills_workers_that_do_not_listen() {
    let lab = Lab::new("deaf:1:99");
    let child = lab.running(&[]);
    signal(&child, Signal::SIGINT);
    let started = Instant::now();
    while !lab.events().contains(&Event::StopRequested) {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, Signal::SIGINT);
    assert_eq!(code(&child.wait_with_output().unwrap()), 130);
    gone(&lab.workers());
}

#[test]
fn workers_do_not_outlive_a_coordinator_a_guard_or_a_launcher_that_is_killed() {
    let lab = Lab::new("endless:0:99");
    let mut child = lab.running(&[]);
    let workers = lab.workers();
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&workers);

    // The guard of a worker, and the launcher that is the guard's parent.
    for generations in [1, 2] {
        let lab = Lab::new("endless:0:1");
        let child = lab.running(&[]);
        let workers = lab.workers();
        let target = (0..generations).fold(workers[0], |pid, _| parent(pid));
        kill(target, Signal::SIGKILL).unwrap();
        assert_eq!(code(&child.wait_with_output().unwrap()), 0, "generation 2 finishes");
        gone(&workers);
    }
}

fn parent(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    Pid::from_raw(stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap())
}

#[test]
fn a_stopped_worker_is_killed_with_the_others() {
    let lab = Lab::new("deaf:1:99");
    let child = lab.running(&[]);
    let workers = lab.workers();
    kill(workers[1], Signal::SIGSTOP).unwrap();
    for _ in 0..3 {
        // Signals of one kind that are not yet seen merge into one.
        signal(&child, Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(code(&child.wait_with_output().unwrap()), 130);
    gone(&workers);
}

#[test]
fn a_folder_in_use_is_refused_and_not_disturbed() {
    let lab = Lab::new("endless:0:1");
    let child = lab.running(&[]);
    let line = one_line(&lab.launch(&[]));
    assert!(line.contains("runs/quickstart/jobs/scenes") && line.contains("in use"), "{line}");
    signal(&child, Signal::SIGINT);
    assert_eq!(code(&child.wait_with_output().unwrap()), 130);
}

#[test]
fn a_worker_without_its_libraries_or_of_another_version_is_refused_before_anything_is_written() {
    let mut lab = Lab::new("");
    let complaint =
        "echo \"$0: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file\" >&2; exit 127";
    let cases = [
        (complaint, ["libtorch_cpu.so", "LD_LIBRARY_PATH"]),
        ("echo worker 99.0.0", ["99.0.0", "build both from one source"]),
        ("echo worker is ill >&2; exit 3", ["worker is ill", "--version"]),
    ];
    lab.worker = lab.folder.path().join("worker.sh");
    for (script, words) in cases {
        fs::write(&lab.worker, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&lab.worker, fs::Permissions::from_mode(0o755)).unwrap();
        let line = one_line(&lab.launch(&[]));
        assert!(words.iter().all(|word| line.contains(word)) && line.contains("worker.sh"), "{line}");
    }
    lab.worker = "absent/worker".into();
    assert!(one_line(&lab.launch(&[])).contains("absent/worker"));
    assert!(!lab.folder.path().join("runs").exists());
}

#[test]
fn without_mpirun_the_line_names_the_package() {
    let lab = Lab::new("");
    let mut command = lab.command(&["launch", "--config", "quickstart.toml", "--job", "scenes", "--set", "cluster.device=cpu"]);
    let line = one_line(&command.env("PATH", lab.folder.path()).output().unwrap());
    assert!(line.contains("openmpi-bin") && line.contains("2 workers"), "{line}");
}

#[test]
fn plan_shows_the_command_and_touches_nothing() {
    let lab = Lab::new("");
    let output = lab.command(&["plan", "--config", "quickstart.toml", "--set", "cluster.device=cpu"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "runs/quickstart",
        "device       cpu (as configured)",
        "collective   mpi",
        " per step of 16 images",
        "GFLOP per image, forward and backward; forward: backbone ",
        "mpirun -np 2 --bind-to none",
        "OMP_NUM_THREADS=",
        "guard train --run-dir runs/quickstart --generation 1 --worker",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(!lab.folder.path().join("runs").exists());
}

#[test]
fn status_and_logs_work_from_files_alone() {
    let lab = Lab::new("die-early:0:99");
    let ask = |arguments: &[&str]| lab.command(arguments).output().unwrap();
    assert!(one_line(&ask(&["status", "runs/quickstart"])).contains("runs/quickstart"));
    lab.launch(&["--workers", "1", "--set", "cluster.max_restarts=0"]);
    let status: Value = serde_json::from_slice(&ask(&["status", "runs/quickstart", "--json"]).stdout).unwrap();
    assert_eq!((&status[0]["job"], &status[0]["state"], &status[0]["exit_code"]), (&json!("scenes"), &json!("failed"), &json!(1)));
    let text = String::from_utf8(ask(&["status", "runs/quickstart"]).stdout).unwrap();
    assert!(text.contains("scenes: failed") && text.contains("exit code 1"), "{text}");
    let logs = String::from_utf8(ask(&["logs", "runs/quickstart", "--job", "scenes"]).stdout).unwrap();
    assert!(logs.contains("no libmpi for rank 0\n"), "{logs}");
}
