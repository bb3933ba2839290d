//! The four ways to launch.

use common::journal::Event;

use super::{ClusterLab, PATIENCE, claim};
use crate::cluster::NODES;
use crate::lab::binary;

#[test]
fn a_bare_sbatch_of_the_script_trains_on_four_hosts() {
    let Some(cluster) = claim("launching::a_bare_sbatch_of_the_script_trains_on_four_hosts") else { return };
    let lab = ClusterLab::new(&cluster);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../slurm/train.sh");
    let mut sbatch = cluster.command("sbatch");
    sbatch.args(["--parsable", "--nodes=4", script, "--config", "tiny.toml", "--set", "train.log_every=1"]);
    let output = sbatch.env("LSD_ORCHESTRATOR", binary("orchestrator")).current_dir(lab.folder.path()).output().unwrap();
    let job = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    cluster.wait_for(&format!("the end of job {job}"), PATIENCE, || (cluster.job(&job, "JobState") == "COMPLETED").then_some(()));
    let started = lab.entries().into_iter().find_map(|entry| match entry.event {
        Event::GenerationStarted { world, hosts } => Some((world, hosts)),
        _ => None,
    });
    assert_eq!(started, Some((4, NODES.map(str::to_owned).to_vec())));
    lab.assert_undisturbed_weights();
}

#[test]
fn launch_from_the_login_node_submits_follows_and_says_how_it_would() {
    let Some(cluster) = claim("launching::launch_from_the_login_node_submits_follows_and_says_how_it_would") else { return };
    let lab = ClusterLab::new(&cluster);
    let plan = lab.orchestrator(&["plan", "--config", "tiny.toml", "--nodes", "4"]);
    let words =
        ["sbatch --job-name=lsd-tiny --nodes=4", "--ntasks=4", "3     host 4", "Slurm would take it", "guard train --run-dir"];
    words.iter().for_each(|word| assert!(plan.expect_success().stdout.contains(word), "{word} in {}", plan.stdout));
    assert!(!lab.run().path().exists(), "a plan leaves nothing");

    let submitted = lab.orchestrator(&["launch", "--config", "tiny.toml", "--nodes", "4", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&submitted.expect_success().stdout).unwrap();
    let job = answer["slurm_job"].as_str().unwrap();
    let second = lab.orchestrator(&["launch", "--config", "tiny.toml", "--nodes", "4"]);
    second.expect_refusal(&["runs/tiny", &format!("Slurm job {job}")]);
    cluster.wait_for(&format!("the end of job {job}"), PATIENCE, || (cluster.job(job, "JobState") == "COMPLETED").then_some(()));
    lab.assert_undisturbed_weights();
}

#[test]
fn without_slurm_mpirun_reaches_the_hosts_by_ssh() {
    let Some(cluster) = claim("launching::without_slurm_mpirun_reaches_the_hosts_by_ssh") else { return };
    let lab = ClusterLab::new(&cluster);
    let mut command =
        lab.command(&["launch", "--config", "tiny.toml", "--hosts", &NODES.join(","), "--set", "cluster.launcher=mpirun"]);
    command.env("OMPI_MCA_plm_rsh_args", format!("-F {}", cluster.ssh_config().display()));
    command.env("OMPI_MCA_btl_tcp_if_include", "10.77.0.0/24").env("OMPI_MCA_oob_tcp_if_include", "10.77.0.0/24");
    crate::processes::Running::start_piped(command).wait(PATIENCE).expect_success();
    let hosts = lab.entries().into_iter().filter_map(|entry| match entry.event {
        Event::WorkerJoined { rank, host, .. } => Some((rank, host)),
        _ => None,
    });
    let mut hosts: Vec<(usize, String)> = hosts.collect();
    hosts.sort_unstable();
    assert_eq!(hosts.into_iter().map(|(_, host)| host).collect::<Vec<_>>(), NODES);
    lab.assert_undisturbed_losses();
}
