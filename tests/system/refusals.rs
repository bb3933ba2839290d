//! A bucket that refuses for good: one line that says what to do, at once, and nothing half-written.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::{Ended, Lab, PATIENCE, binary};
use crate::object_server::{ObjectServer, READING};
use crate::processes::Running;
use crate::snapshot::snapshot;

/// Nothing is tried again for minutes.
const SOON: Duration = Duration::from_secs(60);

fn start(lab: &Lab, server: &ObjectServer, arguments: &[&str]) -> Running {
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch"]).args(arguments).current_dir(lab.path());
    server.introduce(&mut command);
    Running::start_piped(command)
}

/// As [`start`], to its end, which comes soon.
fn launch(lab: &Lab, server: &ObjectServer, arguments: &[&str]) -> Ended {
    let started = Instant::now();
    let ended = start(lab, server, &[&["--config", "tiny.toml"], arguments].concat()).wait(PATIENCE);
    assert!(started.elapsed() < SOON, "after {:?}: {}", started.elapsed(), ended.stderr);
    ended
}

fn well_behaved() -> ObjectServer {
    let server = ObjectServer::start(READING, u32::MAX, 0);
    server.behave();
    server
}

#[test]
fn a_bucket_that_may_not_be_read_is_told_before_anything_starts() {
    let lab = Lab::prepared();
    let server = well_behaved();
    server.fill("latents", &lab.path().join("data/latents"));
    let before = snapshot(lab.path());
    for (status, code, words) in [
        ("403 Forbidden", "AccessDenied", "the store denies it"),
        ("400 Bad Request", "ExpiredToken", "the credentials have expired"),
        ("403 Forbidden", "RequestTimeTooSkewed", "set the clock of this host"),
        ("403 Forbidden", "InvalidAccessKeyId", "does not accept the credentials"),
        ("404 Not Found", "NoSuchBucket", "there is no such bucket"),
    ] {
        server.refuse(status, code, |_, _| true);
        let latents = "data.latents=s3://bucket/latents";
        launch(&lab, &server, &["--set", latents]).expect_refusal(&[
            "cannot read s3://bucket/latents/train/dataset.json",
            words,
            code,
        ]);
        assert_eq!(snapshot(lab.path()), before, "{code}");
    }
}

#[test]
fn a_bucket_that_may_not_be_written_or_listed_ends_the_launch_at_once() {
    let lab = Lab::prepared();
    let server = well_behaved();
    let checkpoints = ["--set", "checkpoint.url=s3://bucket/run"];
    for (is_it, words) in [
        ((|method: &str, _: &str| method == "PUT") as fn(&str, &str) -> bool, "cannot write s3://bucket/run"),
        (|method, key| method == "GET" && key.is_empty(), "cannot list s3://bucket/run"),
    ] {
        server.refuse("403 Forbidden", "AccessDenied", is_it);
        launch(&lab, &server, &[&checkpoints[..], &["--fresh"]].concat())
            .expect_refusal(&[words, "the store denies it (AccessDenied)"]);
        assert!(server.objects().is_empty(), "{:?}", server.objects().keys());
    }
    let pictures = "import={ layout = \"images\", source = \"s3://bucket/pictures\" }";
    let import = ["--job", "import", "--set", pictures, "--set", "data.images=imported"];
    launch(&lab, &server, &import).expect_refusal(&["cannot list s3://bucket/pictures", "the store denies it"]);
    assert!(!lab.path().join("imported").exists());
}

/// The checkpoints that are there stay whole, and with new credentials the run goes on from them.
#[test]
fn credentials_that_expire_while_training_cost_no_checkpoint() {
    let lab = Lab::prepared();
    let server = well_behaved();
    let arguments = ["--config", "tiny.toml", "--set", "checkpoint.url=s3://bucket/run", "--set", "checkpoint.every_steps=8"];
    let mut running = start(&lab, &server, &arguments);
    running.wait_until("a checkpoint", PATIENCE, || {
        server.objects().keys().any(|name| name.ends_with("/manifest.json")).then_some(())
    });
    server.refuse("400 Bad Request", "ExpiredToken", |_, _| true);
    let ended = running.wait(PATIENCE);
    ended.expect_code(2);
    let words = "the credentials have expired (ExpiredToken); get new ones";
    assert!(ended.stderr.contains("s3://bucket/run/") && ended.stderr.contains(words), "{}", ended.stderr);
    server.permit();
    let ended = start(&lab, &server, &["--resume", "runs/tiny"]).wait(PATIENCE);
    ended.expect_success();
    let mut command = Command::new(binary("orchestrator"));
    command.args(["checkpoints", "verify", "s3://bucket/run"]);
    server.introduce(&mut command);
    Running::start_piped(command).wait(PATIENCE).expect_success();
}
