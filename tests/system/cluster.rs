//! A real Slurm cluster of four hosts on this machine (`tests/cluster/cluster.sh`), brought up once for all tests of this process.
//!
//! It lives as long as this process: `cluster.sh hold` brings it up, and down again when the pipe to its standard input closes, which
//! the kernel does however this process ends. Processes of several checkouts wait for each other.

mod tests;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::lab::target;

/// The hosts.
pub const NODES: [&str; 4] = ["node1", "node2", "node3", "node4"];

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/cluster.sh");

/// What holds for the cluster that is up: its processes, and `lock`.
const RUN: &str = "/run/lsd-cluster";

/// How often Slurm is asked again for what it does not announce.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Longer than anything takes that a test waits for without a reason to take long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster while it is up.
pub struct Cluster {
    folder: PathBuf,
    /// Brings the cluster down when its standard input closes.
    holder: Child,
}

/// The cluster in the hands of one test.
pub struct Claim(MutexGuard<'static, Option<Cluster>>);

static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);

impl Cluster {
    /// The cluster for the test of that name (`module::test`) alone, without jobs and with all hosts idle. Waits for its turn.
    ///
    /// Nothing without root, who alone can bring it up: then the test is to return, and counts as skipped, but not where `CI` is set.
    pub fn claim(test: &str) -> Option<Claim> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "the cluster needs root, and this is CI");
            // Past the capture of test output, for the summary of `make test`.
            let line = format!("skipped {test}: the cluster needs root\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        // A test that failed has left nothing that `clear` does not put in order.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *shared {
            Some(cluster) => cluster.clear(),
            none => *none = Some(Self::up(&target().join("cluster"))),
        }
        Some(Claim(shared))
    }

    /// Brings up a cluster whose files lie in `folder`, when there is no other one.
    fn up(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let folder = folder.canonicalize().unwrap();
        // Errors, and whom it waits for, go past the capture of test output.
        let mut command = Command::new(SCRIPT);
        command.arg("hold").arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: Ctrl-C is for the tests.
        let mut holder = command.process_group(0).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "the cluster does not come up, see above");
        Self { folder, holder }
    }

    /// Brings the cluster down, as the end of this process would.
    fn down(mut self) {
        drop(self.holder.stdin.take());
        assert!(self.holder.wait().unwrap().success());
    }

    /// Ends all jobs and has every host run and connected.
    fn clear(&self) {
        self.settle();
        self.wait_for("the end of all jobs", PATIENCE, || {
            // Again and again: a job may have itself requeued while it is cancelled.
            self.run("scancel", &["--user", "root"]);
            self.run("squeue", &["--noheader"]).is_empty().then_some(())
        });
    }

    /// Where all files of the cluster lie, on this machine and on every host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `ssh -F` needs to log into a host from anywhere.
    pub fn ssh_config(&self) -> PathBuf {
        self.folder.join("ssh_config")
    }

    /// A new folder that every host sees, gone when dropped.
    pub fn shared_folder(&self) -> TempDir {
        let labs = self.folder.join("labs");
        fs::create_dir_all(&labs).unwrap();
        tempfile::Builder::new().prefix("lab-").tempdir_in(labs).unwrap()
    }

    /// `program`, to be run on this machine, from which the cluster's Slurm is used.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.folder.join("slurm.conf")).stdin(Stdio::null());
        command
    }

    /// `program`, to be run on a host, outside of every job.
    pub fn command_on(&self, node: &str, program: &str) -> Command {
        let mut command = self.command(SCRIPT);
        command.arg("shell").arg(&self.folder).args([node, program]);
        command
    }

    /// What `program ARGUMENTS` prints on this machine; it has to succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        said(self.command(program).args(arguments))
    }

    /// Submits a batch script with options of `sbatch`, to run in `folder`: the job's id. What it prints goes to `slurm-ID.out` there.
    pub fn sbatch(&self, folder: &Path, options: &[&str], script: &str) -> String {
        let path = folder.join("job.sh");
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        said(self.command("sbatch").arg("--parsable").args(options).arg(&path).current_dir(folder)).trim().to_owned()
    }

    /// A field of `scontrol show job`, such as `JobState`, `Reason`, `ExitCode` or `Restarts`.
    pub fn job(&self, job: &str, field: &str) -> String {
        let shown = self.run("scontrol", &["--oneliner", "show", "job", job]);
        let value = shown.split_whitespace().find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {field} in {shown}")).to_owned()
    }

    /// Waits until a job is in one of `states` (`PENDING`, `RUNNING`, `COMPLETED`, ...): which.
    pub fn wait_for_job(&self, job: &str, states: &[&str]) -> String {
        self.wait_for(&format!("job {job} {states:?}"), PATIENCE, || {
            let state = self.job(job, "JobState");
            states.contains(&state.as_str()).then_some(state)
        })
    }

    /// Slurm's word for a host: `idle`, `mix`, `alloc`, `down`, ...; with `*` while it does not answer.
    pub fn node_state(&self, node: &str) -> String {
        self.run("sinfo", &["--noheader", "--nodes", node, "--partition", "batch", "--format", "%t"]).trim().to_owned()
    }

    /// Waits until `found` gives something, at most `patience`.
    pub fn wait_for<T>(&self, what: &str, patience: Duration, mut found: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = found() {
                return value;
            }
            assert!(started.elapsed() < patience, "{what} did not happen within {patience:?}");
            sleep(LOOK_AGAIN);
        }
    }

    /// The processes of a host by the ids that they have on this machine, where a test may signal them; on the host they have others.
    pub fn processes(&self, node: &str) -> Vec<Pid> {
        let first = fs::read_to_string(format!("{RUN}/{node}.pid")).unwrap_or_default();
        let Ok(host) = fs::read_link(format!("/proc/{}/ns/pid", first.trim())) else { return Vec::new() };
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ids.filter(|id| fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|link| link == host)).map(Pid::from_raw).collect()
    }

    /// SIGKILL to all processes of a host at once; their connections are closed by its kernel. After [`Cluster::cut`]: a power failure.
    pub fn kill_host(&self, node: &str) {
        self.script(&["kill-host", node]);
    }

    /// Starts a killed host; returns when Slurm uses it again.
    pub fn start_host(&self, node: &str) {
        self.script(&["start-host", node]);
    }

    /// Takes a host off the network: nothing arrives any more, and nobody is told.
    pub fn cut(&self, node: &str) {
        self.script(&["cut", node]);
    }

    /// Puts a host back on the network; returns when Slurm uses it again.
    pub fn heal(&self, node: &str) {
        self.script(&["heal", node]);
    }

    /// Starts what is killed and connects what is cut off.
    pub fn settle(&self) {
        self.script(&["settle"]);
    }

    /// `cluster.sh COMMAND FOLDER ARGUMENTS`
    fn script(&self, words: &[&str]) {
        said(self.command(SCRIPT).arg(words[0]).arg(&self.folder).args(&words[1..]));
    }
}

impl Claim {
    /// Brings the cluster down; the next test that claims it brings it up again.
    fn down(&mut self) {
        self.0.take().unwrap().down();
    }
}

impl Deref for Claim {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Claim {
    /// Says what Slurm has to say about a test that failed.
    fn drop(&mut self) {
        if let (true, Some(cluster)) = (std::thread::panicking(), &*self.0) {
            let jobs = cluster.command("scontrol").args(["show", "jobs"]).output();
            let log = fs::read_to_string(cluster.folder.join("slurmctld.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            println!("{}slurmctld.log ends:\n{end}", jobs.map(|jobs| text(&jobs.stdout)).unwrap_or_default());
        }
    }
}

/// What a command prints; it has to succeed.
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
