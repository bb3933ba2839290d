//! Whatever dies, hangs or is cut off while a run is on: it is named, and the run ends with the weights that it would have had.

use std::time::{Duration, Instant, SystemTime};

use common::journal::Event;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{ClusterLab, PATIENCE, claim};
use crate::cluster::NODES;
use crate::processes::Running;

fn failed(event: &Event) -> bool {
    matches!(event, Event::Failed { .. })
}

#[test]
fn a_killed_worker_is_named_within_a_moment_and_replaced() {
    let Some(cluster) = claim("faults::a_killed_worker_is_named_within_a_moment_and_replaced") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 20);
    let killed = SystemTime::now();
    lab.signal("node3", "worker", Signal::SIGKILL);
    launch.wait(PATIENCE).expect_success();
    let (rank, host, reason) = lab.first_failure();
    assert_eq!((rank, host.as_deref(), reason.as_str()), (Some(2), Some("node3"), "killed by signal 9 (SIGKILL)"));
    let noticed = lab.until(killed, failed);
    let stepped = lab.until(killed, |event| matches!(event, Event::FirstStep { .. }));
    println!("noticed after {noticed:?}, next step after {stepped:?}");
    // 0.3 s on a quiet machine (tests/peers/recovery.py measures it); other tests run beside this one.
    assert!(noticed < Duration::from_secs(1), "noticed after {noticed:?}");
    let shows: [(&[&str], &[&str]); 4] = [
        (&["why", "runs/tiny"], &["rank 2 on node3: killed by signal 9 (SIGKILL)", "restarted as generation 2", "its last lines"]),
        (&["status", "runs/tiny"], &["train: finished, exit code 0, generation 2", "60/60 steps", "rank 2 on node3"]),
        (&["top", "runs/tiny", "--once"], &["finished", "where the time went", "restart"]),
        (&["list"], &["tiny", "finished", "60/60"]),
    ];
    for (arguments, words) in shows {
        let shown = lab.orchestrator(arguments);
        words.iter().for_each(|word| assert!(shown.expect_success().stdout.contains(word), "{word} in {}", shown.stdout));
    }
    lab.assert_undisturbed_weights();
}

#[test]
fn a_host_that_is_cut_off_is_left_out_and_taken_back() {
    let Some(cluster) = claim("faults::a_host_that_is_cut_off_is_left_out_and_taken_back") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 10);
    let cut = SystemTime::now();
    cluster.cut("node2");
    lab.wait_for_step(&mut launch, 2, 20);
    let noticed = lab.until(cut, failed);
    println!("noticed after {noticed:?}");
    // 5 s on a quiet machine (tests/peers/recovery.py --hosts 4 measures it).
    assert!(noticed < Duration::from_secs(8), "noticed after {noticed:?}");
    assert_eq!(lab.first_failure().1.as_deref(), Some("node2"));
    cluster.heal("node2");
    launch.wait(PATIENCE).expect_success();
    let placed: Vec<usize> = lab
        .entries()
        .into_iter()
        .filter_map(|entry| if let Event::GenerationStarted { hosts, .. } = entry.event { Some(hosts.len()) } else { None })
        .collect();
    assert_eq!(placed[..2], [4, 3]);
    assert!(lab.entries().iter().any(|entry| matches!(&entry.event, Event::HostLost { host } if host == "node2")));
    lab.assert_undisturbed_losses();
}

#[test]
fn a_host_that_dies_costs_a_restart_and_not_the_run() {
    let Some(cluster) = claim("faults::a_host_that_dies_costs_a_restart_and_not_the_run") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 10);
    cluster.kill_host("node4");
    lab.wait_for_step(&mut launch, 2, 20);
    let (_, host, reason) = lab.first_failure();
    assert_eq!(host.as_deref(), Some("node4"), "{reason}");
    launch.wait(PATIENCE).expect_success();
    cluster.start_host("node4");
    lab.assert_undisturbed_losses();
}

#[test]
fn a_worker_that_stops_is_found_and_the_report_says_what_it_did() {
    let Some(cluster) = claim("faults::a_worker_that_stops_is_found_and_the_report_says_what_it_did") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 20);
    lab.signal("node2", "worker", Signal::SIGSTOP);
    launch.wait(PATIENCE).expect_success();
    let (rank, _, reason) = lab.first_failure();
    assert_eq!(rank, Some(1), "{reason}");
    let report = lab.run().log_dir(1).join("hang.txt");
    let text = std::fs::read_to_string(&report).unwrap();
    assert!(text.contains("The threads of rank 1") && text.contains("T (stopped)"), "{text}");
    lab.assert_undisturbed_weights();
}

#[test]
fn a_killed_coordinator_is_followed_by_another_one_in_the_same_job() {
    let Some(cluster) = claim("faults::a_killed_coordinator_is_followed_by_another_one_in_the_same_job") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut launch = lab.launch();
    lab.wait_for_step(&mut launch, 1, 20);
    kill_coordinator(&lab);
    launch.wait(PATIENCE).expect_success();
    assert_eq!(lab.count(|event| matches!(event, Event::Launched { .. })), 2);
    lab.assert_undisturbed_weights();
}

/// The process on the first host that is no guard.
fn kill_coordinator(lab: &ClusterLab) {
    let is_guard =
        |pid: &nix::unistd::Pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("guard");
    let mut found = lab.processes("node1", "orchestrator");
    found.retain(|pid| !is_guard(pid));
    assert_eq!(found.len(), 1, "one coordinator");
    nix::sys::signal::kill(found[0], Signal::SIGKILL).unwrap();
}

/// Faults at random moments, one after the other: a few in every test run, and as many as `LSD_FAULTS` says.
#[test]
fn random_faults_in_a_row_change_nothing_but_the_time() {
    let Some(cluster) = claim("faults::random_faults_in_a_row_change_nothing_but_the_time") else { return };
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |value| value.parse().unwrap());
    let (count, seed) = (number("LSD_FAULTS", 4), number("LSD_TEST_SEED", rand::random()));
    println!("LSD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut done, started) = (0, Instant::now());
    while done < count {
        let lab = ClusterLab::new(&cluster);
        let mut launch = lab.launch();
        let (mut generation, mut degraded) = (1, false);
        // Two or so to a run: each costs a generation, and the run has to end.
        for step in [random.random_range(3..25), random.random_range(25..45)] {
            lab.wait_for_step(&mut launch, generation, step);
            generation = 1 + lab.entries().iter().map(|entry| entry.generation).max().unwrap_or_default();
            degraded |= strike(&lab, &mut launch, &mut random);
            done += 1;
            println!("fault {done} of {count}, {:?} in all", started.elapsed());
        }
        launch.wait(PATIENCE).expect_success();
        cluster.settle();
        if degraded { lab.assert_undisturbed_losses() } else { lab.assert_undisturbed_weights() }
    }
}

/// Slurm gives the hosts to somebody else for a moment.
pub(super) fn preempt(lab: &ClusterLab, launch: &mut Running) {
    let (cluster, requeues) = (lab.cluster, || lab.count(|event| matches!(event, Event::Requeued { .. })));
    let (before, job) = (requeues(), lab.slurm_job());
    let urgent = cluster.sbatch(lab.folder.path(), &["--partition=urgent", "--nodes=4", "--ntasks-per-node=4"], "sleep 1");
    launch.wait_until("the requeue", PATIENCE, || (requeues() > before).then_some(()));
    cluster.wait_for_job(&urgent, &["COMPLETED"]);
    // Slurm would wait two minutes before it starts a requeued job.
    cluster.wait_for_job(&job, &["PENDING"]);
    cluster.run("scontrol", &["update", &format!("JobId={job}"), "StartTime=now"]);
}

/// One misfortune; whether the run may have gone on with fewer hosts.
fn strike(lab: &ClusterLab, launch: &mut Running, random: &mut StdRng) -> bool {
    // Not the first host: Slurm ends a job whose script is gone.
    let node = NODES[random.random_range(1..NODES.len())];
    match random.random_range(0..6) {
        0 => lab.signal(node, "worker", Signal::SIGKILL),
        1 => lab.signal(node, "worker", Signal::SIGSTOP),
        2 => kill_coordinator(lab),
        3 => preempt(lab, launch),
        4 => {
            lab.cluster.cut(node);
            let lost = || lab.entries().iter().any(|entry| matches!(entry.event, Event::HostLost { .. })).then_some(());
            launch.wait_until("the loss of a host", PATIENCE, lost);
            lab.cluster.heal(node);
            return true;
        }
        _ => {
            lab.cluster.kill_host(node);
            lab.cluster.start_host(node);
            return true;
        }
    }
    false
}
