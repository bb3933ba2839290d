//! The light binary: starts, watches and ends the workers of a run, and tells what became of it. It links neither libtorch nor MPI.

mod cli;
mod commands;
mod coordinator;
mod exit;
mod guard;
mod launchers;
mod observe;
mod preflight;
mod run_folder;
mod slurm;
mod story;
mod supervisor;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use commands::launch::Manner;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Launch { run, json, wait, again } => commands::launch::run(&run, Manner { json, wait, again }),
        Command::Guard(arguments) => guard::run(&arguments),
        Command::Probe { file, worker, gpus } => preflight::answer_probe(&file, &worker, gpus),
        Command::Rehearse(arguments) => commands::rehearse::run(&arguments),
        Command::Stop { run, job } => commands::stop::run(run, job),
        Command::Checkpoint { run, json } => commands::checkpoint::run(run, json),
        Command::Plan { run } => commands::plan::run(&run),
        Command::Status { run, json } => commands::status::run(run, json),
        Command::Logs { run, lines } => commands::logs::run(run, lines),
        Command::Top { run, job, once } => commands::top::run(run, job, once),
        Command::List { root, json } => commands::list::run(&root, json),
        Command::Why { run, job, generation, json } => commands::why::run(run, job, generation, json),
        Command::Goodput { run, job, json } => commands::goodput::run(run, job, json),
        Command::Report { run, to, json } => commands::report::run(&run, to, json),
        Command::Checkpoints { command } => commands::checkpoints::run(command),
        Command::Shards { command } => commands::shards::run(command),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        failure.exit_code()
    })
}
