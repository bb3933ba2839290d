//! Encoded images from a bucket through the cache of the host: the same training as from a folder, each block fetched once, figures where
//! users look; and memory that does not grow from epoch to epoch.

use std::fs;
use std::process::Command;

use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, binary};
use crate::object_server::{ObjectServer, READING};
use crate::processes::Running;
use crate::records::{final_weights, last_step};
use crate::survival::STEPS;

/// Tiny scenes as JPEG, and latents of them.
fn with_jpeg() -> Lab {
    let lab = Lab::empty();
    for job in ["scenes", "autoencoder", "encode"] {
        lab.launch(&["--job", job, "--set", "data.image_format=jpeg"]).expect_success();
    }
    lab
}

/// The figure `name` of every record.
fn figures(lab: &Lab, run: &str, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(lab.path().join("runs").join(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[name].as_f64().unwrap()).collect()
}

#[test]
fn jpeg_images_from_a_bucket_train_as_those_from_a_folder_and_are_fetched_once() {
    let lab = with_jpeg();
    lab.launch(&[]).expect_success();
    let server = ObjectServer::start(READING, u32::MAX, 0);
    server.behave();
    server.fill("latents", &lab.path().join("data/latents"));
    let launch = |name: &str, more: &[&str]| {
        let mut command = Command::new(binary("orchestrator"));
        command.args(["launch", "--config", "tiny.toml", "--set", "data.latents=s3://bucket/latents"]);
        command.args(["--set", &format!("run.name={name}"), "--set", "data.cache_folder=cache"]).args(more).current_dir(lab.path());
        server.introduce(&mut command);
        Running::start_piped(command).wait(PATIENCE).expect_success();
    };
    let weights = |name: &str| final_weights(&common::run_dir::RunDir::new(lab.path().join("runs").join(name)), STEPS);
    launch("bucket", &[]);
    assert_eq!(weights("bucket"), final_weights(&lab.run(), STEPS));
    for name in ["decodes", "decoded"] {
        launch(name, &["--set", "data.cache_decoded=true"]);
        assert_eq!(weights(name), weights("bucket"));
    }
    launch("again", &[]);
    assert_eq!(figures(&lab, "again", "data_fetched_mib").iter().sum::<f64>(), 0.0, "all of it is on this host");
    assert!(figures(&lab, "again", "cache_hit_rate").iter().all(|rate| *rate == 1.0));
    let status: Value = serde_json::from_slice(&fs::read(lab.path().join("runs/again/status.json")).unwrap()).unwrap();
    assert_eq!(status["progress"]["fields"]["cache_hit_rate"], 1.0, "{status}");
    let said = lab.start(&["status", "runs/again"]).wait(PATIENCE);
    assert!(said.stdout.contains("of the time waiting for data (100 % of its blocks at hand)"), "{}", said.stdout);
}

/// Bytes of memory that a process has.
fn resident(process: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Every step is an epoch here, and a batch has about 300 kB: one that is kept per epoch would be 60 MB in 200 of them.
#[test]
fn memory_does_not_grow_from_epoch_to_epoch() {
    const GROWTH: u64 = 20 << 20;
    let lab = with_jpeg();
    let settings = ["train.global_batch=64", "train.steps=340", "cluster.workers_per_node=1", "checkpoint.every_steps=1000"];
    let mut launch = lab.start_launch(&settings.map(|setting| ["--set", setting]).concat());
    let mut resident_after = |step: u64| {
        launch.wait_until(&format!("step {step}"), PATIENCE, || last_step(&lab.run()).filter(|at| *at >= step));
        resident(launch.descendants("worker")[0])
    };
    let (early, late) = (resident_after(100), resident_after(300));
    println!("{early} bytes after 100 epochs, {late} after 300");
    assert!(late < early + GROWTH, "{early} bytes after 100 epochs, {late} after 300");
    launch.wait(PATIENCE).expect_success();
}
