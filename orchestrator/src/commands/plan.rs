//! `orchestrator plan`: what `launch` would run.

use std::process::ExitCode;

use common::backend::{self, Backend};
use common::config::{ClusterConfig, Config, DeviceKind, size};
use common::job::Job;
use indicatif::{HumanBytes, HumanCount};

use super::prepare::{Prepared, prepare, submission};
use super::words::counted;
use crate::cli::RunArguments;
use crate::coordinator::significant;
use crate::exit::{Failure, OrBadInput};
use crate::launchers::{self, Where};
use crate::slurm;

/// Prints it, and asks Slurm whether it would take it.
pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode, Failure> {
    let prepared = prepare(arguments)?;
    let Prepared { config, job, run, place, spec, .. } = &prepared;
    let cluster = &config.cluster;
    println!("run folder   {}", run.path().display());
    println!("job          {job}, in {}", run.job_dir(*job).path().display());
    println!("device       {}", device(cluster, spec.backend, place));
    println!("collective   {}", spec.backend.collective);
    println!("restarts     up to {} without a new checkpoint in between", cluster.max_restarts);
    match place {
        Where::Here { launcher, hosts, .. } => {
            let hosts = &hosts[..hosts.len().min(cluster.nodes)];
            println!("launcher     {}", launcher.name());
            println!("workers      {} on each of {}, {} CPU threads each", spec.workers_per_node, count(hosts), spec.threads);
            print_ranks(hosts, spec.workers_per_node);
            println!("\ncommand lines (the generation counts up from launch to launch)");
            for process in launcher.processes(spec, 1, hosts) {
                println!("  {process}");
            }
        }
        Where::Queue => {
            println!("launcher     slurm, through a job");
            println!("workers      {} on each of {} hosts", spec.workers_per_node, cluster.nodes);
            let hosts: Vec<String> = (1..=cluster.nodes).map(|host| format!("host {host} of the job")).collect();
            print_ranks(&hosts, spec.workers_per_node);
            let submission = submission(&prepared, arguments)?;
            println!("\ncommand line");
            println!("  sbatch {}", launchers::shell_line(&submission.command_line()));
            println!("\nand in the job, for each generation");
            let names: Vec<String> = (1..=cluster.nodes).map(|host| format!("HOST{host}")).collect();
            for process in launchers::in_job(cluster.threads_per_worker).processes(spec, 1, &names) {
                println!("  {process}");
            }
            if std::path::Path::new(&submission.script).is_file() {
                let said = slurm::test_only(&submission).or_bad_input()?;
                println!("\nSlurm would take it: {said}");
            }
        }
    }
    if *job == Job::Train {
        print_operations(config);
        print_memory(config);
    }
    println!("\nenvironment of a worker");
    for line in ENVIRONMENT {
        println!("  {line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Floating point operations of a step, of all workers together.
fn print_operations(config: &Config) {
    let flops = size::flops(config);
    let networks = [("backbone", flops.backbone), ("slot attention", flops.slot_attention), ("UNet", flops.unet)];
    let networks = networks.map(|(name, flops)| format!("{name} {}", operations(flops)));
    let step = flops.training().saturating_mul(config.train.global_batch as u64);
    println!("\nmodel FLOPs    {} per step of {} images", operations(step), config.train.global_batch);
    println!("               {} per image, forward and backward; forward: {}", operations(flops.training()), networks.join(", "));
}

/// `280.5 GFLOP`.
fn operations(flops: u64) -> String {
    let flops = flops as f64;
    let units = [(1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")];
    let (unit, name) = units.into_iter().find(|(unit, _)| flops >= *unit).unwrap_or((1e6, "MFLOP"));
    format!("{} {name}", significant(flops / unit))
}

/// Parameters, and what a worker needs at its largest.
fn print_memory(config: &Config) {
    let workers = config.cluster.nodes * config.cluster.workers_per_node;
    let rows = config.train.global_batch.div_ceil(workers.max(1));
    let (parameters, memory) = (size::parameters(config), size::memory(config, rows));
    println!("\nestimated memory of a worker ({} parameters, {rows} images)", HumanCount(parameters.total()));
    let parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("AdamW's moments", memory.moments),
        ("moving average", memory.average),
        ("activations", memory.activations),
        ("batches", memory.batches),
        ("cache of the data set, at most", memory.cache),
        ("checkpoint, on rank 0", memory.checkpoint),
        ("libraries", memory.process),
        ("in all", memory.total()),
    ];
    for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
        println!("  {name:<32} {:>10}", HumanBytes(bytes).to_string());
    }
}

/// What a worker reads from its environment.
const ENVIRONMENT: [&str; 5] = [
    "rank, world and local rank: OMPI_COMM_WORLD_RANK/_SIZE/_LOCAL_RANK, else SLURM_PROCID/SLURM_NTASKS/SLURM_LOCALID, else RANK/WORLD_SIZE/LOCAL_RANK",
    "OMP_NUM_THREADS: CPU threads of libtorch",
    "NCCL_*: NCCL's own variables, as NCCL_SOCKET_IFNAME, passed on to every host",
    "MALLOC_*: large blocks stay with the process",
    "LSD_LOG: log level, as debug or info,worker::data=trace",
];

/// The device and what decided for it.
fn device(cluster: &ClusterConfig, backend: Backend, place: &Where) -> String {
    let why = match (cluster.device, place) {
        (DeviceKind::Cpu | DeviceKind::Cuda, _) => "as configured".into(),
        (DeviceKind::Auto, Where::Here { .. }) => match backend::gpus_of_this_host() {
            0 => "this host has no NVIDIA GPU".into(),
            gpus => format!("this host has {}", counted(gpus, "GPU")),
        },
        (DeviceKind::Auto, Where::Queue) => match slurm::gpus_per_node(cluster) {
            0 => "the job asks for no GPU; its first host decides".into(),
            gpus => format!("the job asks for {} on each host; its first host decides", counted(gpus, "GPU")),
        },
    };
    format!("{} ({why})", backend.device)
}

fn count(hosts: &[String]) -> String {
    match hosts {
        [] => "this host".into(),
        hosts => format!("{} hosts", hosts.len()),
    }
}

fn print_ranks(hosts: &[String], workers: usize) {
    println!("\nranks");
    let here = ["this host".to_owned()];
    for (place, host) in (if hosts.is_empty() { &here } else { hosts }).iter().enumerate() {
        for local_rank in 0..workers {
            println!("  {:<5} {host}, local rank {local_rank}", place * workers + local_rank);
        }
    }
}
