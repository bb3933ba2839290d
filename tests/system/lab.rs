//! A temporary folder with a small experiment in it, and the orchestrator to run there.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use common::run_dir::RunDir;
use tempfile::TempDir;

use crate::processes::Running;

const CONFIG: &str = include_str!("tiny.toml");

/// Longer than any launch of the small experiment takes on a busy machine; a test that runs into it has found a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder in which one test runs the orchestrator.
pub struct Lab {
    folder: TempDir,
}

/// How a process ended and what it said.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Lab {
    /// A folder with `tiny.toml` and nothing else.
    pub fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("lsd-test-").tempdir().unwrap();
        fs::write(folder.path().join("tiny.toml"), CONFIG).unwrap();
        Self { folder }
    }

    /// A folder with `tiny.toml` and its scenes, autoencoder and latents, copied from the one preparation that all tests share.
    pub fn prepared() -> Self {
        static PREPARED: OnceLock<Lab> = OnceLock::new();
        let original = PREPARED.get_or_init(|| {
            let lab = Self::empty();
            for job in ["scenes", "autoencoder", "encode"] {
                lab.launch(&["--job", job]).expect_success();
            }
            lab
        });
        let lab = Self::empty();
        copy_folder(&original.path().join("data"), &lab.path().join("data"));
        lab
    }

    /// The folder, in which every command runs.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The run's folder.
    pub fn run(&self) -> RunDir {
        RunDir::new(self.path().join("runs/tiny"))
    }

    /// `orchestrator launch --config tiny.toml ARGUMENTS`, to its end.
    pub fn launch(&self, arguments: &[&str]) -> Ended {
        self.start_launch(arguments).wait(PATIENCE)
    }

    /// As [`Lab::launch`], still running.
    pub fn start_launch(&self, arguments: &[&str]) -> Running {
        self.start(&[&["launch", "--config", "tiny.toml"], arguments].concat())
    }

    /// `orchestrator launch --resume runs/tiny`, to its end.
    pub fn resume(&self) -> Ended {
        self.start_resume().wait(PATIENCE)
    }

    /// As [`Lab::resume`], still running.
    pub fn start_resume(&self) -> Running {
        self.start(&["launch", "--resume", "runs/tiny"])
    }

    /// `orchestrator ARGUMENTS`.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_program(&binary("orchestrator"), arguments)
    }

    /// `program ARGUMENTS` in this folder.
    pub fn start_program(&self, program: &Path, arguments: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path());
        Running::start_piped(command)
    }
}

impl Ended {
    /// The exit code; a death by signal n counts as 128 + n, as in a shell.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Panics with everything the process said unless it exited with 0.
    pub fn expect_success(&self) -> &Self {
        self.expect_code(0)
    }

    /// Panics with everything the process said unless it exited with `code`.
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless the process refused bad input: exit code 2 and one line on standard error that holds each of `words`.
    pub fn expect_refusal(&self, words: &[&str]) {
        self.expect_code(2);
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "not one line:\n{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not named in: {}", self.stderr);
        }
    }
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

/// A binary of this workspace, as built by `cargo build --release`.
pub fn binary(name: &str) -> PathBuf {
    let path = target().join("release").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --release` comes before these tests", path.display());
    path
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
