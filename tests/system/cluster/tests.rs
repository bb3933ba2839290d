//! The test cluster itself: it is a cluster, it survives what tests do to it, and it leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cluster, NODES, PATIENCE, RUN, SCRIPT, said};
use crate::processes::alive;

/// Runs the MPI program as a job on all hosts.
fn allreduce_on_four_hosts(cluster: &Cluster) {
    let lab = cluster.shared_folder();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/allreduce.c");
    said(Command::new("mpicc").args([source, "-o"]).arg(lab.path().join("allreduce")));
    let job = cluster.sbatch(lab.path(), &["--nodes=4", "--ntasks-per-node=2", "--gres=gpu:2"], "srun --mpi=pmix ./allreduce");
    cluster.wait_for_job(&job, &["COMPLETED"]);
    let output = fs::read_to_string(lab.path().join(format!("slurm-{job}.out"))).unwrap();
    let lines: Vec<_> = output.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(lines.len(), 8, "{output}");
    assert!(lines.iter().all(|(_, sum)| *sum == "28"), "{output}");
    assert_eq!(lines.iter().map(|(host, _)| *host).collect::<BTreeSet<_>>(), BTreeSet::from(NODES), "{output}");
}

#[test]
fn an_mpi_program_runs_as_a_job_of_four_hosts() {
    let Some(cluster) = Cluster::claim("cluster::tests::an_mpi_program_runs_as_a_job_of_four_hosts") else { return };
    allreduce_on_four_hosts(&cluster);
}

#[test]
fn ssh_leads_to_each_host_and_from_one_to_another() {
    let Some(cluster) = Cluster::claim("cluster::tests::ssh_leads_to_each_host_and_from_one_to_another") else { return };
    let config = cluster.ssh_config();
    for (at, node) in NODES.iter().enumerate() {
        assert_eq!(said(cluster.command("ssh").arg("-F").arg(&config).args([node, "hostname"])).trim(), *node);
        let next = NODES[(at + 1) % NODES.len()];
        let command = format!("ssh -F {} {next} hostname", config.display());
        assert_eq!(said(cluster.command("ssh").arg("-F").arg(&config).args([*node, &command])).trim(), next);
    }
}

#[test]
fn hosts_have_processes_and_tmp_of_their_own_and_share_the_folder() {
    let Some(cluster) = Cluster::claim("cluster::tests::hosts_have_processes_and_tmp_of_their_own_and_share_the_folder") else {
        return;
    };
    let lab = cluster.shared_folder();
    let mine = lab.path().join("mine");
    fs::write(&mine, "seen").unwrap();
    for node in NODES {
        let script = format!("echo {node} >>/tmp/who; cat /tmp/who {}", mine.display());
        assert_eq!(said(cluster.command_on(node, "sh").args(["-c", &script])), format!("{node}\nseen"));
    }
    assert!(!Path::new("/tmp/who").exists());
    let all: Vec<_> = NODES.iter().flat_map(|node| cluster.processes(node)).collect();
    assert!(all.len() >= 4 * 3, "not even the daemons: {all:?}");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "of two hosts at once: {all:?}");
}

#[test]
fn hosts_that_were_cut_off_or_killed_are_used_again() {
    let Some(cluster) = Cluster::claim("cluster::tests::hosts_that_were_cut_off_or_killed_are_used_again") else { return };
    cluster.cut("node2");
    cluster.kill_host("node3");
    assert_eq!(cluster.processes("node3"), []);
    for node in ["node2", "node3"] {
        cluster.wait_for(&format!("{node} down"), PATIENCE, || cluster.node_state(node).starts_with("down").then_some(()));
    }
    cluster.heal("node2");
    cluster.start_host("node3");
    for node in NODES {
        assert_eq!(cluster.node_state(node), "idle");
    }
    allreduce_on_four_hosts(&cluster);
}

#[test]
fn a_host_restarted_before_slurm_notices_is_used_again() {
    let Some(cluster) = Cluster::claim("cluster::tests::a_host_restarted_before_slurm_notices_is_used_again") else { return };
    cluster.kill_host("node4");
    cluster.start_host("node4");
    allreduce_on_four_hosts(&cluster);
}

fn daemon(name: &str) -> Pid {
    Pid::from_raw(fs::read_to_string(format!("{RUN}/{name}.pid")).unwrap().trim().parse().unwrap())
}

/// Every process of the cluster: those of its hosts, and its daemons on this machine.
fn every_process(cluster: &Cluster) -> Vec<Pid> {
    let hosts = NODES.iter().flat_map(|node| cluster.processes(node));
    hosts.chain([daemon("munged"), daemon("slurmctld")]).collect()
}

#[test]
fn nothing_is_left_of_it_and_the_next_one_has_waited_for_that() {
    let Some(mut cluster) = Cluster::claim("cluster::tests::nothing_is_left_of_it_and_the_next_one_has_waited_for_that") else {
        return;
    };
    let (lab, elsewhere) = (cluster.shared_folder(), tempfile::tempdir().unwrap());
    // A job with a process that has left its parents, of the kind that Slurm itself would not find.
    let job = cluster.sbatch(lab.path(), &["--nodes=4"], "srun sh -c 'setsid -f sleep 1000; : >started-$(hostname); sleep 1000'");
    cluster.wait_for("the job's start", PATIENCE, || {
        NODES.iter().all(|node| lab.path().join(format!("started-{node}")).exists()).then_some(())
    });
    assert_eq!(cluster.job(&job, "JobState"), "RUNNING");
    let processes = every_process(&cluster);

    // Its folder lies in /tmp, of which each host has its own.
    let mut next = Command::new(SCRIPT);
    next.arg("hold").arg(elsewhere.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut next = next.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(next.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for the end of the cluster of") && line.contains(cluster.folder().to_str().unwrap()), "{line}");
    cluster.down();
    assert_eq!(processes.into_iter().filter(|id| alive(*id)).collect::<Vec<_>>(), []);

    line.clear();
    BufReader::new(next.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let next = Cluster { folder: elsewhere.path().to_owned(), holder: next };
    allreduce_on_four_hosts(&next);
    let processes = every_process(&next);
    next.down();
    assert_eq!(processes.into_iter().filter(|id| alive(*id)).collect::<Vec<_>>(), []);
    // Nor anything else, while the lock keeps others from bringing theirs up.
    let look = format!("ls {RUN}; grep node1 /etc/hosts; ip -oneline link | grep lsd-; grep lsd- /proc/mounts; true");
    assert_eq!(said(Command::new("flock").args([&format!("{RUN}/lock"), "sh", "-c", &look])), "lock\n");
}

#[test]
fn a_cluster_whose_keeper_was_killed_is_replaced_by_the_next() {
    let Some(mut cluster) = Cluster::claim("cluster::tests::a_cluster_whose_keeper_was_killed_is_replaced_by_the_next") else {
        return;
    };
    let processes = every_process(&cluster);
    let mut abandoned = cluster.0.take().unwrap();
    kill(Pid::from_raw(i32::try_from(abandoned.holder.id()).unwrap()), Signal::SIGKILL).unwrap();
    abandoned.holder.wait().unwrap();
    drop(abandoned.holder.stdin.take());
    assert!(alive(daemon("slurmctld")));
    *cluster.0 = Some(Cluster::up(&abandoned.folder));
    assert_eq!(processes.into_iter().filter(|id| alive(*id)).collect::<Vec<_>>(), []);
    allreduce_on_four_hosts(&cluster);
}
