//! Which launcher is chosen, and the lines that each of them starts.

use super::*;

fn spec(workers_per_node: usize, root: bool) -> LaunchSpec {
    LaunchSpec {
        worker: "/opt/lsd/worker".into(),
        guard: "/opt/lsd/orchestrator".into(),
        job: Job::Train,
        run: "runs/my run".into(),
        folder: "/home/me".into(),
        workers_per_node,
        backend: Backend { device: Device::Cpu, collective: Collective::Mpi },
        threads: 3,
        root,
        passed: vec!["NCCL_SOCKET_IFNAME".into()],
    }
}

fn cluster(workers: usize, launcher: LauncherKind) -> ClusterConfig {
    ClusterConfig { workers_per_node: workers, launcher, ..ClusterConfig::default() }
}

#[test]
fn workers_on_one_host_are_plain_children_unless_they_meet_in_mpi() {
    let name = |cluster: ClusterConfig, collective| match choose(&cluster, collective, None, None) {
        Ok(Where::Here { launcher, .. }) => launcher.name().to_owned(),
        Ok(Where::Queue) => "queue".into(),
        Err(error) => error.to_string(),
    };
    assert_eq!(name(cluster(1, LauncherKind::Auto), Collective::Solo), "local");
    assert_eq!(name(cluster(2, LauncherKind::Auto), Collective::Mpi), "mpirun");
    assert_eq!(name(cluster(8, LauncherKind::Auto), Collective::Nccl), "local");
    assert_eq!(name(cluster(8, LauncherKind::Local), Collective::Nccl), "local");
    assert_eq!(name(cluster(1, LauncherKind::Mpirun), Collective::Solo), "mpirun");
    assert_eq!(name(cluster(2, LauncherKind::Mpirun), Collective::Nccl), "mpirun");
    assert_eq!(name(cluster(1, LauncherKind::Auto), Collective::Mpi), "mpirun");
    assert!(name(cluster(2, LauncherKind::Local), Collective::Mpi).contains("2 workers that reduce by MPI need mpirun"));
    let hosts = vec!["a".to_owned(), "b".to_owned()];
    let two = |launcher| ClusterConfig { nodes: 2, hosts: hosts.clone(), ..cluster(1, launcher) };
    assert_eq!(name(two(LauncherKind::Auto), Collective::Nccl), "mpirun");
    assert!(name(two(LauncherKind::Local), Collective::Nccl).contains("cluster.nodes = 2"));
    assert!(name(ClusterConfig { hosts: Vec::new(), ..two(LauncherKind::Mpirun) }, Collective::Mpi).contains("cluster.hosts"));
}

#[test]
fn plan_prints_a_line_that_a_shell_takes() {
    let mpirun = mpirun::Mpirun { world: 2, remote: false };
    let line = mpirun.processes(&spec(2, true), 4, &[])[0].to_string();
    assert!(line.starts_with("env OMP_NUM_THREADS=3 MALLOC_MMAP_THRESHOLD_=4294967296 "), "{line}");
    let rest = "mpirun -np 2 --bind-to none --oversubscribe --allow-run-as-root /opt/lsd/orchestrator guard train --run-dir \
                'runs/my run' --generation 4 --worker /opt/lsd/worker --device cpu --collective mpi";
    assert!(line.ends_with(rest), "{line}");
    assert!(!mpirun.processes(&spec(2, false), 4, &[])[0].to_string().contains("root"));
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn ranks_lie_in_blocks_on_the_hosts_that_are_left() {
    let hosts = ["node1".to_owned(), "node3".to_owned()];
    let srun = srun::Slurm { cpus_per_node: Some(8) }.processes(&spec(2, true), 4, &hosts)[0].to_string();
    for words in
        ["--nodes=2 --ntasks=4 --ntasks-per-node=2 --nodelist=node1,node3 --distribution=block", "--cpus-per-task=3", "--mpi=pmix"]
    {
        assert!(srun.contains(words), "{words} in {srun}");
    }
    let crowded = srun::Slurm { cpus_per_node: Some(1) }.processes(&spec(2, true), 4, &hosts)[0].to_string();
    assert!(crowded.contains("--overcommit") && !crowded.contains("--cpus-per-task"), "{crowded}");
    let mpirun = mpirun::Mpirun { world: 4, remote: true }.processes(&spec(2, true), 4, &hosts)[0].to_string();
    let words =
        "-np 4 --host node1:2,node3:2 --map-by ppr:2:node --mca orte_keep_fqdn_hostnames 1 --wdir /home/me -x OMP_NUM_THREADS";
    assert!(mpirun.contains(words), "{mpirun}");
}

#[test]
fn local_workers_are_told_their_places_and_nobody_else_s() {
    let processes = local::Local.processes(&spec(3, false), 1, &[]);
    for (rank, process) in processes.iter().enumerate() {
        let place = |name| process.environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let own = Some(rank.to_string());
        assert_eq!((place("RANK"), place("WORLD_SIZE"), place("LOCAL_RANK")), (own.clone(), Some("3".into()), own));
        assert_eq!(process.rank, Some(rank));
        assert!(process.without.contains(&"SLURM_PROCID"));
    }
    assert_eq!(processes.len(), 3);
}

#[test]
fn srun_brings_mpi_along_only_for_mpi_and_hosts_are_asked_for_gpus_only_where_they_count() {
    let hosts = ["node1".to_owned(), "node3".to_owned()];
    let slurm = srun::Slurm { cpus_per_node: Some(8) };
    for (device, collective, mpi) in [
        (Device::Cpu, Collective::Mpi, "--mpi=pmix"),
        (Device::Cuda, Collective::Nccl, "--mpi=none"),
        (Device::Cuda, Collective::Solo, "--mpi=none"),
    ] {
        let spec = LaunchSpec { backend: Backend { device, collective }, ..spec(2, false) };
        let line = slurm.processes(&spec, 1, &hosts)[0].to_string();
        assert!(line.contains(mpi) && line.ends_with(&format!(" --device {device} --collective {collective}")), "{line}");
        for launcher in [&slurm as &dyn Launcher, &mpirun::Mpirun { world: 4, remote: true }] {
            let probe = launcher.probe(&spec, &hosts, Path::new("/runs/.probe-1")).to_string();
            assert_eq!(probe.ends_with(" --gpus 2"), device == Device::Cuda, "{probe}");
        }
    }
}

#[test]
fn cores_are_shared_out_unless_the_configuration_says_otherwise() {
    assert_eq!(threads(&cluster(2, LauncherKind::Auto), 16), 8);
    assert_eq!(threads(&cluster(4, LauncherKind::Auto), 2), 1);
    assert_eq!(threads(&ClusterConfig { threads_per_worker: 5, ..ClusterConfig::default() }, 2), 5);
}
