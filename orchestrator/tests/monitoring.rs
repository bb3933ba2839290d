//! The monitoring commands on run folders as a cluster leaves them: files alone, no process, no port.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::control::FailureKind;
use common::job::Job;
use common::journal::{Entry, Event, Revisions};
use common::run_dir::RunDir;
use serde_json::{Value, json};

/// A folder of runs, told with times relative to now.
struct Lab {
    folder: tempfile::TempDir,
    now: SystemTime,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), now: SystemTime::now() }
    }

    fn run(&self, name: &str) -> RunDir {
        let run = RunDir::new(self.folder.path().join("runs").join(name));
        fs::create_dir_all(run.path()).unwrap();
        fs::write(run.run_toml(), "").unwrap();
        run
    }

    /// So many seconds ago, or from now if less than 0.
    fn clock(&self, ago: f64) -> String {
        let (hour, ago) = (Duration::from_secs(3600), Duration::from_secs_f64(3600.0 + ago));
        humantime::format_rfc3339_micros(self.now + hour - ago).to_string()
    }

    /// Adds entries: seconds ago, generation, what happened, why.
    fn journal(&self, run: &RunDir, events: Vec<(f64, u64, Event, &str)>) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(run.journal()).unwrap();
        for (ago, generation, event, reason) in events {
            let entry = Entry { time: self.clock(ago), generation, event, reason: reason.into() };
            writeln!(file, "{}", serde_json::to_string(&entry).unwrap()).unwrap();
        }
    }

    fn metrics(&self, run: &RunDir, records: &[(f64, u64, u64)]) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(run.metrics()).unwrap();
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        for (ago, generation, step) in records {
            let record = json!({"step": step, "generation": generation, "time": now - ago, "loss": 1.0 / (1.0 + *step as f64),
                "images_per_second": 320.0, "data_stall": 0.1, "collective": 0.2, "checkpoint": 0.0, "seconds": 10.0});
            writeln!(file, "{record}").unwrap();
        }
    }

    fn status(&self, run: &RunDir, workers: usize, changes: Value) {
        let worker = |rank: usize| {
            json!({"rank": rank, "host": format!("n{:03}", rank / 8), "pid": 1000 + rank, "device": "cuda:0", "step": 612,
                "connected": true, "phase": "compute", "phase_seconds": 0.1, "compute_per_step": 0.1, "straggler": false,
                "recent": {"starting": 0.0, "data": 1.0, "compute": 8.0, "collective": 1.0, "checkpoint": 0.0}})
        };
        let mut status = json!({"job": "train", "state": "running", "updated": self.clock(0.0), "started": self.clock(600.0),
            "slurm_job": "4711", "deadline": null, "coordinator_pid": 1, "coordinator_host": "n000", "generation": 2,
            "world": workers, "lost_hosts": [], "workers": (0..workers).map(worker).collect::<Vec<_>>(),
            "progress": {"done": 612, "total": 3000, "unit": "steps", "rate": 2.0, "fields": {"loss": 0.25, "data_stall": 0.1}},
            "checkpoint": 500, "checkpoint_committed": null, "checkpoint_seconds": 3.0, "restarts": 0, "failure": null,
            "exit_code": null});
        status.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        fs::write(run.status(), serde_json::to_vec_pretty(&status).unwrap()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.args(arguments).current_dir(self.folder.path()).env("PATH", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn ask_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// A squeue that answers so.
    fn squeue(&self, script: &str) {
        let path: PathBuf = self.folder.path().join("squeue");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn launched(slurm_job: &str) -> Event {
    Event::Launched {
        job: Job::Train,
        world: 16,
        version: "0.1.0".into(),
        slurm_job: Some(slurm_job.into()),
        host: "n000".into(),
        revisions: Revisions::default(),
    }
}

fn started() -> Event {
    Event::GenerationStarted { world: 16, hosts: vec!["n000".into(), "n001".into()] }
}

fn submitted(slurm_job: &str) -> Event {
    Event::Submitted { slurm_job: slurm_job.into() }
}

/// Queued for 100 s, trained for 190 s, one rank out of memory, restarted within 20 s, running.
fn story(lab: &Lab, run: &RunDir) {
    let joined = |rank: usize| Event::WorkerJoined { rank, host: format!("n{:03}", rank / 8), pid: 1, device: "cuda:0".into() };
    let killed = Event::Failed {
        rank: Some(13),
        host: Some("n001".into()),
        step: 190,
        kind: Some(FailureKind::OutOfMemory),
        log: vec![format!("{} rank=13  INFO worker: step 190", lab.clock(301.0)), "terminate called".into()],
    };
    lab.journal(
        run,
        vec![(600.0, 0, submitted("4711"), "sbatch"), (500.0, 1, launched("4711"), ""), (500.0, 1, started(), "first")],
    );
    lab.journal(run, (0..16).map(|rank| (495.0, 1, joined(rank), "")).collect());
    lab.journal(run, vec![(495.0, 1, Event::Running, ""), (490.0, 1, Event::FirstStep { step: 1 }, "")]);
    lab.journal(run, vec![(390.0, 1, Event::CheckpointCommitted { step: 100, seconds: 3.0 }, "")]);
    lab.journal(run, vec![(300.0, 1, killed, "killed by signal 9 (SIGKILL)")]);
    lab.journal(run, (0..16).filter(|rank| *rank != 13).map(|rank| (299.0, 1, Event::Followed { rank }, "")).collect());
    lab.journal(run, vec![(298.0, 1, Event::GenerationEnded, ""), (298.0, 2, started(), "restart 1 of 2")]);
    lab.journal(run, vec![(280.0, 2, Event::FirstStep { step: 101 }, "")]);
    let first: Vec<(f64, u64, u64)> = (1..=18).map(|tens| (490.0 - 10.0 * tens as f64, 1, 1 + 10 * tens)).collect();
    let second: Vec<(f64, u64, u64)> = (1..=28).map(|tens| (280.0 - 10.0 * tens as f64, 2, 101 + 10 * tens)).collect();
    lab.metrics(run, &[first, second].concat());
    lab.status(run, 16, json!({"deadline": lab.clock(-400.0), "lost_hosts": ["n007"]}));
}

fn bad_input(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    text
}

#[test]
fn why_names_the_first_failure_its_followers_and_the_restart() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let text = lab.ask(&["why", "runs/a"]);
    for words in [
        "generation 1, step 190: rank 13 on n001: out of memory: killed by signal 9 (SIGKILL)\n",
        "within 1.0 s of the last sign",
        "15 other ranks because of it: 0-12, 14-15",
        "restarted as generation 2 from step 100, its first step 20 s after the failure, 90 steps to do again",
        "  terminate called\n",
        "now: running, generation 2, 612/3000 steps, newest checkpoint at step 100",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let failure = &lab.ask_json(&["why", "runs/a"])["failure"];
    assert_eq!((&failure["rank"], &failure["kind"], &failure["host"]), (&json!(13), &json!("out-of-memory"), &json!("n001")));
    assert_eq!((&failure["aftermath"]["outcome"], &failure["aftermath"]["redone"]), (&json!("restarted"), &json!(90)));
    assert!(lab.ask(&["why", "runs/a", "--generation", "2"]).starts_with("generation 2 did not fail\n"));
    let output = lab.command(&["why", "runs/a", "--generation", "3"]).output().unwrap();
    assert!(bad_input(&output).contains("the newest is 2"));

    let lost =
        Event::Failed { rank: None, host: Some("n001".into()), step: 381, kind: Some(FailureKind::LostHost), log: Vec::new() };
    let given_up = Event::Ended { exit_code: 3 };
    lab.journal(&run, vec![(1.0, 2, lost, "no sign of life for 15 s"), (0.0, 2, given_up, "too few hosts are left")]);
    fs::create_dir_all(run.log_dir(2)).unwrap();
    fs::write(run.launcher_log(2), "srun: error: Node failure on n001\n").unwrap();
    let text = lab.ask(&["why", "runs/a"]);
    for words in [
        "step 381: host n001: lost host: no sign of life for 15 s\n",
        "gave up (exit code 3): too few hosts are left",
        "  srun: error: Node failure on n001\n",
        "now: failed",
        "1 other failure:\n",
        "generation 1, step 190: rank 13 on n001",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn why_of_a_run_without_failures_says_how_it_stands() {
    let lab = Lab::new();
    let run = lab.run("a");
    assert!(bad_input(&lab.command(&["why", "runs/a"]).output().unwrap()).contains("runs/a"));
    lab.journal(&run, vec![(500.0, 1, launched("4711"), ""), (500.0, 1, started(), "")]);
    let text = lab.ask(&["why", "runs/a"]);
    assert!(text.starts_with("now: vanished: the orchestrator on n000 fell silent 8m 20s ago"), "{text}");
    assert!(text.ends_with("\n\nnothing has failed\n"), "{text}");
    lab.journal(&run, vec![(1.0, 1, Event::Finished, "")]);
    let text = lab.ask(&["why", "runs/a"]);
    assert_eq!(text, "nothing has failed\n\nnow: finished, generation 1\n");
}

#[test]
fn status_is_one_screen_with_deadline_goodput_and_the_last_failure() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let text = lab.ask(&["status", "runs/a"]);
    for words in [
        "running, generation 2",
        "job 4711, 6m 39s left, 2 hosts: n000, n001",
        "612/3000 steps, 2/s, 19m 54s left (20 %)",
        "needs about 1 more allocation",
        "0.25, 10 % of the time waiting for data",
        "step 100, 6m 30s ago, took up to 3.0 s",
        "of 8m 20s with hosts was useful (",
        "n007",
        "generation 1, step 190: rank 13 on n001: out of memory",
        "16 of 16 connected, on 2 hosts",
        "rank 15",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(!text.contains('\u{1b}') && text.lines().count() <= 30, "{text}");
    let report = &lab.ask_json(&["status", "runs/a"])[0];
    assert_eq!((&report["state"], &report["standing"], &report["vanished"]), (&json!("running"), &json!("running"), &json!(false)));
    assert_eq!((&report["forecast"]["allocations"], &report["newest_checkpoint"][0]), (&json!(1), &json!(100)));
    assert_eq!(report["workers"].as_array().unwrap().len(), 16);
}

#[test]
fn status_and_top_show_the_devices_and_how_well_they_are_used() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let outlier = |rank: usize| json!({"rank": rank, "host": "n000", "problem": "it is slow"});
    let rate = |rank: usize, tflops: f64| json!({"rank": rank, "host": "n000", "tflops": tflops});
    let checkup = json!({"device": "NVIDIA H200", "workers": 16, "slowest": rate(3, 640.0), "fastest": rate(0, 752.0), "total_tflops": 11840.0,
        "all_reduce_gbps": 310.0, "outliers": (3..9).map(outlier).collect::<Vec<_>>(), "more_outliers": 2});
    lab.status(&run, 16, json!({"checkup": checkup, "utilisation": 0.43, "setbacks": {"skipped": 2, "back": 1}}));
    let (status, top) = (lab.ask(&["status", "runs/a"]), lab.ask(&["top", "runs/a", "--once"]));
    for words in ["rank 6 on n000: it is slow\n", "and 4 more that stand out\n"] {
        assert!(status.contains(words), "{words} is not in {status}");
    }
    assert!(!status.contains("rank 7 on n000: it"), "{status}");
    for text in [status, top] {
        for words in [
            "16 x NVIDIA H200, matmul 640 (rank 3 on n000) to 752 TFLOP/s, all-reduce 310 GB/s; 8 stand out\n",
            "MFU 43 % of 11840 TFLOP/s measured\n",
            "2 steps skipped, went back to a checkpoint 1 time: gradients were no numbers\n",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
    }
    assert_eq!(lab.ask_json(&["status", "runs/a"])[0]["utilisation"], json!(0.43));
}

#[test]
fn top_prints_a_frame_and_refuses_what_is_no_terminal() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let text = lab.ask(&["top", "runs/a", "--once"]);
    assert_eq!(text.lines().count(), 40);
    for words in [
        "train: running, generation 2",
        "612/3000 steps",
        " ranks 1-",
        "n001",
        " loss ",
        "redone work",
        "restart 1 of 2",
        "1 more allocation",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(bad_input(&lab.command(&["top", "runs/a"]).output().unwrap()).contains("--once"));
}

#[test]
fn goodput_books_every_second() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let report = lab.ask_json(&["goodput", "runs/a"]);
    let book = |name: &str| report["books"][name].as_f64().unwrap();
    // The first generation: 180 s in records and 9 s after them; the second has 90 steps of 280 to do again.
    for (name, seconds) in [("queue", 100.0), ("start", 10.0), ("redone_work", 90.0), ("restart", 21.0), ("data_stall", 37.0)] {
        assert!((book(name) - seconds).abs() < 1.5, "{name}: {}", report["books"]);
    }
    let total: f64 = report["books"].as_object().unwrap().values().map(|value| value.as_f64().unwrap()).sum();
    assert!((total - report["elapsed"].as_f64().unwrap()).abs() < 1e-6 && (600.0..610.0).contains(&total), "{report}");
    assert_eq!((&report["failures"], &report["checkpoints"]), (&json!(1), &json!(1)));
    let text = lab.ask(&["goodput", "runs/a"]);
    // The second that it took to ask may count here or there.
    assert!(
        text.contains("redone work      1m 2") && text.contains("s    15 %") && text.contains("would lose the least time"),
        "{text}"
    );
}

#[test]
fn a_queued_run_is_told_by_slurm_if_slurm_can_tell() {
    let lab = Lab::new();
    let run = lab.run("a");
    lab.journal(&run, vec![(90.0, 0, submitted("812"), "sbatch")]);
    let heading = |lab: &Lab| lab.ask(&["status", "runs/a"]).lines().nth(2).unwrap().to_owned();
    assert!(heading(&lab).contains("queued as Slurm job 812, last sign of life 1m 30s ago"), "{}", heading(&lab));
    lab.squeue("echo PENDING Resources 2026-12-01T08:00:00");
    assert!(heading(&lab).contains("as Slurm job 812: pending: Resources, expected to start at 2026-12-01T08:00:00"));
    let report = &lab.ask_json(&["status", "runs/a"])[0];
    assert_eq!(
        (&report["state"], &report["slurm_job"], &report["queue"]["reason"]),
        (&json!("queued"), &json!("812"), &json!("Resources"))
    );
    lab.squeue("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1");
    assert!(heading(&lab).contains("does not know any more"), "{}", heading(&lab));
    lab.squeue("exec /bin/sleep 60");
    let asked = Instant::now();
    assert!(heading(&lab).contains("queued as Slurm job 812,"));
    assert!(asked.elapsed() < Duration::from_secs(20), "a hanging squeue holds status up");

    lab.journal(&run, vec![(60.0, 1, launched("812"), ""), (50.0, 1, Event::Ended { exit_code: 75 }, "preemption")]);
    lab.journal(&run, vec![(49.0, 1, Event::Requeued { slurm_job: "812".into() }, "preemption")]);
    lab.status(&run, 2, json!({"exit_code": 75, "state": "stopped"}));
    assert_eq!(lab.ask_json(&["list"])[0]["standing"], json!("queued"));
}

#[test]
fn list_shows_every_run_and_one_that_cannot_be_read() {
    let lab = Lab::new();
    assert!(bad_input(&lab.command(&["list"]).output().unwrap()).contains("runs"));
    story(&lab, &lab.run("running"));
    let queued = lab.run("queued");
    lab.journal(&queued, vec![(7200.0, 0, submitted("99"), "")]);
    lab.run("new");
    let torn = lab.run("torn");
    lab.journal(&torn, vec![(60.0, 0, submitted("98"), "")]);
    fs::write(torn.status(), "{").unwrap();
    fs::create_dir(lab.folder.path().join("runs/notes")).unwrap();
    let text = lab.ask(&["list"]);
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line("running").starts_with("running train running 612/3000 2/s 0.25 100 4711 "), "{text}");
    assert_eq!(line("queued"), "queued train queued - - - - 99 2h ago");
    assert!(text.contains("new: never launched") && text.contains("torn: cannot understand"), "{text}");
    assert!(!text.contains("notes"));
    let names: Vec<Value> = lab.ask_json(&["list"]).as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["running", "queued", "new", "torn"]);
}

#[test]
fn status_of_4096_workers_takes_a_moment() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run);
    let joined = |rank: usize| Event::WorkerJoined { rank, host: format!("n{:03}", rank / 8), pid: 1, device: "cuda:0".into() };
    for generation in 3..8 {
        lab.journal(&run, vec![(0.0, generation, started(), "")]);
        lab.journal(&run, (0..4096).map(|rank| (0.0, generation, joined(rank), "it knows the run's key")).collect());
    }
    lab.status(&run, 4096, json!({}));
    let size = fs::metadata(run.status()).unwrap().len();
    assert!(size > 1_000_000, "{size} bytes are no test");
    let asked = Instant::now();
    let text = lab.ask(&["status", "runs/a"]);
    let taken = asked.elapsed();
    assert!(text.contains("4096 of 4096 connected, on 512 hosts") && text.lines().count() <= 24, "{text}");
    // A tenth of a second on an idle machine; tests share theirs.
    assert!(taken < Duration::from_secs(2), "{taken:?}");
}

/// Two ranks on two hosts, and their launcher.
fn logs(lab: &Lab, run: &RunDir, generation: u64) {
    let joined = |rank: usize| Event::WorkerJoined { rank, host: format!("n00{rank}.cluster"), pid: 1, device: "cpu".into() };
    lab.journal(run, vec![(9.0, generation, joined(0), ""), (9.0, generation, joined(1), "")]);
    fs::create_dir_all(run.log_dir(generation)).unwrap();
    let line = |ago: f64, rank: usize, text: &str| format!("{} rank={rank} {text}\n", lab.clock(ago));
    fs::write(run.log_file(generation, 0), line(5.0, 0, " INFO one") + &line(3.0, 0, " INFO three")).unwrap();
    fs::write(run.log_file(generation, 1), line(4.0, 1, "ERROR two") + "caused by: nothing\n").unwrap();
}

#[test]
fn logs_of_all_ranks_are_merged_and_chosen() {
    let lab = Lab::new();
    let run = lab.run("a");
    lab.journal(&run, vec![(10.0, 1, launched("1"), "")]);
    assert!(bad_input(&lab.command(&["logs", "runs/a"]).output().unwrap()).contains("nothing was launched yet"));
    logs(&lab, &run, 1);
    fs::write(run.launcher_log(1), "mpirun: hello\n").unwrap();
    logs(&lab, &run, 2);
    let ask = |arguments: &[&str]| {
        let text = lab.ask(&[&["logs", "runs/a"], arguments].concat());
        text.lines().map(|line| line.split_once(" | ").map_or(line, |(who, _)| who).trim().to_owned()).collect::<Vec<_>>()
    };
    let text = lab.ask(&["logs", "runs/a"]);
    let ends: Vec<&str> = text.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(ends, ["one", "two", "nothing", "three"], "{text}");
    assert_eq!(ask(&[]), ["n000.cluster 0", "n001.cluster 1", "n001.cluster 1", "n000.cluster 0"]);
    assert_eq!(ask(&["--generation", "1"]).last().map(String::as_str), Some("launcher"));
    assert_eq!(ask(&["--generation", "all"]).len(), 9);
    let alone = lab.ask(&["logs", "runs/a", "--host", "n001", "--level", "warn"]);
    assert!(!alone.contains(" | ") && alone.contains("ERROR two") && alone.ends_with("caused by: nothing\n"), "{alone}");
    assert_eq!(lab.ask(&["logs", "runs/a", "--grep", "caused by|three", "--since", "1h"]).lines().count(), 3);
    assert_eq!(lab.ask(&["logs", "runs/a", "--since", "1s"]), "");
    for (arguments, words) in [(["--rank", "7"], "rank 7"), (["--generation", "9"], "gen-009"), (["--host", "n9"], "host n9")] {
        let line = bad_input(&lab.command(&[&["logs", "runs/a"], &arguments[..]].concat()).output().unwrap());
        assert!(line.contains(words), "{line}");
    }
    let wrong = lab.command(&["logs", "runs/a", "--grep", "("]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn logs_are_followed_into_the_next_generation_and_end_with_their_reader() {
    let lab = Lab::new();
    let run = lab.run("a");
    lab.journal(&run, vec![(10.0, 1, launched("1"), "")]);
    let mut child = lab.command(&["logs", "runs/a", "--follow"]).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    let words = ["one", "two", "nothing", "three"];
    for generation in [1, 2] {
        logs(&lab, &run, generation);
        let mut seen: Vec<String> = words.iter().map(|_| next().split_whitespace().last().unwrap().to_owned()).collect();
        seen.sort_unstable();
        assert_eq!(seen, ["nothing", "one", "three", "two"]);
    }
    let mut file = fs::OpenOptions::new().append(true).open(run.log_file(2, 1)).unwrap();
    write!(file, "half").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    writeln!(file, " a line").unwrap();
    assert!(next().ends_with("n001.cluster 1 | half a line"));
    drop(lines);
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(asked.elapsed() < Duration::from_secs(60), "it outlives its reader");
        writeln!(file, "more").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stderr).unwrap().ends_with("-- generation 2 --\n"));
}
