//! The error paths of handing a run to Slurm, with programs of that name in PATH that answer what real ones rarely do. What real ones do is
//! tested on a real cluster (`tests/system/slurm`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::journal::{self, Event};
use common::run_dir::RunDir;

const CONFIG: &str = include_str!("../../configs/quickstart.toml");

/// A folder with a configuration and a `bin` with the tools of Slurm.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new(tools: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(folder.path().join("quickstart.toml"), CONFIG).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let this = Self(folder);
        tools.iter().for_each(|(name, script)| this.tool(name, script));
        this
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.0.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn launch(&self, arguments: &[&str]) -> Output {
        self.launch_workers("1", arguments)
    }

    fn launch_workers(&self, workers: &str, arguments: &[&str]) -> Output {
        let worker = Path::new(env!("CARGO_BIN_EXE_orchestrator")).with_file_name("examples").join("fake_worker");
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .args(["launch", "--config", "quickstart.toml", "--job", "scenes", "--nodes", "2", "--workers", workers])
            .args(arguments);
        // Nothing of a real Slurm, but a shell and its tools.
        let path = format!("{}:/usr/bin:/bin", self.0.path().join("bin").display());
        for name in ["SLURM_JOB_ID", "SLURM_JOB_NODELIST"] {
            command.env_remove(name);
        }
        command.env("PATH", path).env("LSD_WORKER", worker).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn job(&self) -> RunDir {
        RunDir::new(self.0.path().join("runs/quickstart/jobs/scenes"))
    }

    /// One line with `words`, exit code 2, and nothing written.
    fn refused(&self, output: &Output, words: &[&str]) {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word} in {text}"));
        assert!(!self.job().run_toml().exists(), "something was written");
    }
}

/// An sbatch that takes everything, and gives out the number 77.
const TAKES: &str = r#"case "$1" in --test-only) echo "sbatch: Job 77 to start at noon" >&2;; *) echo "a banner of the site"; echo "77;cluster";; esac"#;

#[test]
fn without_slurm_the_line_says_what_else_there_is() {
    let lab = Lab::new(&[]);
    // Whether this machine has Slurm is not the question here.
    if Path::new("/usr/bin/sbatch").exists() {
        lab.tool("sbatch", "exit 1");
        let output = lab.launch(&["--set", "cluster.launcher=mpirun"]);
        lab.refused(&output, &["cluster.nodes = 2", "cluster.hosts"]);
    } else {
        lab.refused(&lab.launch(&[]), &["cluster.nodes = 2", "no sbatch in PATH", "--hosts"]);
        lab.refused(&lab.launch(&["--set", "cluster.launcher=slurm"]), &["sbatch is not in PATH"]);
    }
}

#[test]
fn what_sbatch_refuses_is_told_in_its_words_and_leaves_nothing() {
    let lab = Lab::new(&[("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")]);
    lab.refused(&lab.launch(&[]), &["Slurm refused", "Invalid account"]);
}

#[test]
fn a_job_that_asks_for_fewer_gpus_than_workers_is_not_handed_in() {
    let lab = Lab::new(&[("sbatch", TAKES)]);
    let output = lab.launch_workers("4", &["--set", "cluster.slurm.gpus_per_node=2", "--set", "cluster.device=cuda"]);
    lab.refused(&output, &["cluster.workers_per_node = 4", "cluster.slurm.gpus_per_node = 2"]);
}

#[test]
fn an_answer_without_a_number_is_shown() {
    let lab = Lab::new(&[("sbatch", "echo maintenance until Monday")]);
    let output = lab.launch(&[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("cannot understand the answer") && text.contains("maintenance until Monday"), "{text}");
}

#[test]
fn a_queued_run_is_slurm_s_until_slurm_has_forgotten_it() {
    let lab = Lab::new(&[("sbatch", TAKES), ("squeue", "echo PENDING")]);
    let output = lab.launch(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains(r#""slurm_job":"77""#));
    let submitted = || journal::read(&lab.job().journal()).unwrap().into_iter().map(|entry| entry.event).collect::<Vec<_>>();
    assert_eq!(submitted(), [Event::Submitted { slurm_job: "77".into() }]);

    let second = lab.launch(&[]);
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2));
    assert!(text.contains("Slurm job 77, which is pending") && text.contains("scancel"), "{text}");

    lab.tool("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
    assert_eq!(lab.launch(&[]).status.code(), Some(0));
    assert_eq!(submitted().len(), 2);
}
