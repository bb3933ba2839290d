//! Runs and checkpoints in a folder that lies behind a network protocol (SFTP, mounted by sshfs): no O_DIRECT, no fsync of folders, and a
//! server that can go away.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::run_dir::RunDir;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, PATIENCE};
use crate::records::{final_weights, generations, last_step, newest_checkpoint, weights_in};
use crate::survival::{STEPS, undisturbed};

/// Where Debian's and Fedora's OpenSSH keep the server.
const SERVERS: [&str; 2] = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];

/// A folder that is reached through a server; unmounted when dropped.
struct Mounted {
    folder: PathBuf,
    /// Holds the number of the server's process.
    server: PathBuf,
}

impl Mounted {
    /// A folder within `place`. Nothing where it cannot be mounted: then `test` is to return, and counts as skipped.
    fn new(place: &Path, test: &str) -> Option<Self> {
        let skip = |reason: &str| {
            // Past the capture of test output, for the summary of `make test`.
            std::io::stderr().write_all(format!("skipped network_folder::{test}: {reason}\n").as_bytes()).unwrap();
            None
        };
        let Some(program) = SERVERS.into_iter().find(|server| Path::new(server).exists()) else {
            return skip("no sftp-server is installed");
        };
        let [folder, behind] = ["net", "behind"].map(|name| place.join(name));
        for folder in [&folder, &behind] {
            fs::create_dir(folder).unwrap();
        }
        let (server, script) = (place.join("server"), place.join("serve.sh"));
        fs::write(&script, format!("#!/bin/sh\necho $$ >{}\nexec {program}\n", server.display())).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let connect = format!("reconnect,ssh_command={}", script.display());
        let source = format!("here:{}", behind.display());
        match Command::new("sshfs").args(["-o", &connect, &source]).arg(&folder).output() {
            Ok(output) if output.status.success() => Some(Self { folder, server }),
            Ok(output) => skip(String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => skip(&format!("sshfs: {error}")),
        }
    }

    /// Kills the server: whatever is open breaks, and what is opened later finds a new one.
    fn lose_connection(&self) {
        let server = fs::read_to_string(&self.server).unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.folder, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_run_that_lies_there_survives_being_killed() {
    let lab = Lab::prepared();
    let Some(mounted) = Mounted::new(lab.path(), "a_run_that_lies_there_survives_being_killed") else { return };
    let root = mounted.folder.join("runs");
    let run = RunDir::new(root.join("tiny"));
    let mut launch = lab.start_launch(&["--set", &format!("run.root={}", root.display())]);
    let saved = launch.wait_until("a checkpoint", PATIENCE, || newest_checkpoint(&run));
    launch.wait_until("steps after it", PATIENCE, || last_step(&run).filter(|at| *at > saved + 1));
    launch.kill_all();
    lab.start(&["launch", "--resume", run.path().to_str().unwrap()]).wait(PATIENCE).expect_success();
    assert_eq!(&final_weights(&run, STEPS), undisturbed());
    lab.start(&["status", run.path().to_str().unwrap()]).wait(PATIENCE).expect_success();
}

#[test]
fn a_server_that_goes_away_costs_a_checkpoint_at_most() {
    let lab = Lab::prepared();
    let Some(mounted) = Mounted::new(lab.path(), "a_server_that_goes_away_costs_a_checkpoint_at_most") else { return };
    let url = format!("checkpoint.url={}", mounted.folder.join("checkpoints").display());
    let mut launch = lab.start_launch(&["--set", &url]);
    for step in [STEPS / 4, STEPS / 2, STEPS * 3 / 4] {
        launch.wait_until(&format!("step {step}"), PATIENCE, || last_step(&lab.run()).filter(|at| *at >= step));
        mounted.lose_connection();
    }
    launch.wait(PATIENCE).expect_success();
    assert_eq!(generations(&lab.run()), 1);
    assert_eq!(&weights_in(&mounted.folder.join("checkpoints"), STEPS), undisturbed());
}
