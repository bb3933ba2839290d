//! `orchestrator plan`: what `launch` would run.

use std::process::ExitCode;

use super::prepare::{Prepared, prepare};
use crate::cli::RunArguments;
use crate::exit::Failure;

/// Prints it.
pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode, Failure> {
    let Prepared { config, job, run, launcher, spec, .. } = prepare(arguments)?;
    println!("run folder   {}", run.path().display());
    println!("job          {job}, in {}", run.job_dir(job).path().display());
    println!("launcher     {}", launcher.name());
    println!("workers      {} on this host, {} CPU threads each", spec.world, spec.threads);
    println!("restarts     up to {} without a new checkpoint in between", config.cluster.max_restarts);
    println!("\nranks");
    for rank in 0..spec.world {
        println!("  {rank:<5} this host, local rank {rank}");
    }
    println!("\ncommand lines (the generation counts up from launch to launch)");
    for process in launcher.processes(&spec, 1) {
        println!("  {process}");
    }
    Ok(ExitCode::SUCCESS)
}
