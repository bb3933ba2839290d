//! What cannot work is refused in one line, with nothing started and nothing written.

use super::{ClusterLab, claim};

#[test]
fn what_slurm_would_not_take_is_refused_in_its_own_words() {
    let Some(cluster) = claim("bad_input::what_slurm_would_not_take_is_refused_in_its_own_words") else { return };
    let lab = ClusterLab::new(&cluster);
    let cases: [(&str, &[&str]); 3] = [
        ("cluster.slurm.partition=nowhere", &["Invalid partition", "nowhere"]),
        ("cluster.slurm.gpus_per_node=3", &["Slurm refused", "--gpus-per-node=3"]),
        ("cluster.nodes=5", &["Slurm refused", "--nodes=5"]),
    ];
    for (setting, words) in cases {
        let refused = lab.orchestrator(&["launch", "--config", "tiny.toml", "--set", "cluster.nodes=4", "--set", setting]);
        refused.expect_refusal(words);
        assert!(!lab.run().path().exists(), "{setting}: something was written");
    }
    assert!(cluster.run("squeue", &["--noheader"]).is_empty());
}

#[test]
fn a_host_that_does_not_answer_or_sees_another_disk_is_named() {
    let Some(cluster) = claim("bad_input::a_host_that_does_not_answer_or_sees_another_disk_is_named") else { return };
    let lab = ClusterLab::new(&cluster);
    // Every host has a /tmp of its own.
    let launch = format!(
        "{} launch --config tiny.toml --set run.root=/tmp/runs --set train.steps=1",
        crate::lab::binary("orchestrator").display()
    );
    let job = cluster.sbatch(lab.folder.path(), &["--nodes=4"], &launch);
    cluster.wait_for_job(&job, &["FAILED"]);
    let said = std::fs::read_to_string(lab.folder.path().join(format!("slurm-{job}.out"))).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("host node") && said.contains("does not see the folder of runs, /tmp/runs"), "{said}");
    assert_eq!(cluster.job(&job, "ExitCode"), "2:0");
}

#[test]
fn a_host_that_ssh_does_not_reach_is_named_and_nothing_is_started() {
    let Some(cluster) = claim("bad_input::a_host_that_ssh_does_not_reach_is_named_and_nothing_is_started") else { return };
    let lab = ClusterLab::new(&cluster);
    cluster.cut("node3");
    let mut command = lab.command(&["launch", "--config", "tiny.toml", "--hosts", "node1,node2,node3"]);
    command.env("OMPI_MCA_plm_rsh_args", format!("-F {} -o ConnectTimeout=3", cluster.ssh_config().display()));
    command.env("OMPI_MCA_oob_tcp_if_include", "10.77.0.0/24");
    crate::processes::Running::start_piped(command).wait(super::PATIENCE).expect_refusal(&["no answer from", "node3"]);
    cluster.heal("node3");
    assert!(!lab.run().run_toml().exists(), "something was written");
}

#[test]
fn a_folder_in_memory_is_refused_before_anything_is_submitted() {
    let Some(cluster) = claim("bad_input::a_folder_in_memory_is_refused_before_anything_is_submitted") else { return };
    let lab = ClusterLab::new(&cluster);
    let arguments = ["launch", "--config", "tiny.toml", "--nodes", "4", "--set", "run.root=/dev/shm/runs"];
    lab.orchestrator(&arguments).expect_refusal(&["/dev/shm", "tmpfs", "run.root"]);
}
