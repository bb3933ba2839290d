//! Test support: a job on threads as workers.

use super::{JobContext, Reporter, SaveFlag, StopFlag};
use crate::collectives::{Communicator, InProcess};
use common::config::Config;
use common::place::Place;
use common::run_dir::RunDir;
use serde_json::Value;
use std::sync::Arc;
use tch::Device;
use tokio::runtime::Runtime;

/// Runs a job on `world` threads in the folder `run`; the summary of rank 0.
pub(super) fn run_job(
    job: fn(&mut JobContext) -> anyhow::Result<Value>,
    config: &Config,
    run: &RunDir,
    world: usize,
    runtime: &Runtime,
) -> anyhow::Result<Value> {
    let worker = |collective: InProcess, rank: usize| {
        // The workers are threads already.
        tch::set_num_threads(1);
        job(&mut JobContext {
            config: config.clone(),
            run: run.clone(),
            job_dir: run.clone(),
            place: Place { rank, world, local_rank: rank, generation: 1 },
            collective: Communicator::start(move || Ok(Box::new(collective)), Device::Cpu, Arc::default()).unwrap(),
            reporter: Reporter::log_only(),
            stop: StopFlag::default(),
            save: SaveFlag::default(),
            runtime: runtime.handle().clone(),
            device: Device::Cpu,
            profile: 0,
        })
    };
    std::thread::scope(|scope| {
        let ends = InProcess::world(world).into_iter().enumerate();
        let workers: Vec<_> = ends.map(|(rank, end)| scope.spawn(move || worker(end, rank))).collect();
        let summaries: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        summaries.into_iter().reduce(|first, other| first.and_then(|first| other.map(|_| first))).unwrap()
    })
}
