//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::job::Job;
use common::rehearsal::Fault;

use crate::guard::GuardArguments;

use crate::commands::checkpoints::Keep;
use crate::commands::logs::LogsArguments;
use crate::commands::shards::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failure
  2    bad input: command line, configuration, data, run folder
  3    gave up after restarting without a new checkpoint in between: do not requeue
  4    the loss or a gradient is not finite
  5    out of memory
  6    a host was lost and too few are left
  7    a step hung
  75   saved, to be continued: preempted, or at the end of the allocation
  130  stopped by SIGINT (Ctrl-C)
  143  stopped by SIGTERM or `orchestrator stop`
  Without a restart, a worker's own exit code, or 128 + its signal.";

const WHERE: &str = "\
Where the workers run (cluster.launcher decides otherwise; `orchestrator plan` shows it):
  inside a Slurm allocation    on its hosts, by srun
  with several hosts           through a Slurm job, which runs slurm/train.sh
  with --hosts                 on these, by mpirun over ssh
  otherwise                    on this host

";

/// Starts and watches the workers that train Latent Slot Diffusion.
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version = env!("VERSION_AND_REVISION"), after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the workers of a run, watch them, restart them when they fail
    #[command(after_help = WHERE.to_owned() + EXIT_CODES)]
    Launch {
        /// Which run and how.
        #[command(flatten)]
        run: RunArguments,
        /// Print only the final summary, as JSON, on standard output
        #[arg(long)]
        json: bool,
        /// When the run is handed to Slurm: follow it to its end, and exit as it does
        #[arg(long)]
        wait: bool,
        /// Go on after a coordinator of the same Slurm job that was killed; slurm/train.sh says so
        #[arg(long, hide = true)]
        again: bool,
    },
    /// Guard one worker; launchers start this in the worker's place
    #[command(hide = true)]
    Guard(GuardArguments),
    /// Tell whether this host sees a file, can start the worker and has a GPU for each; `launch` asks that of every host
    #[command(hide = true)]
    Probe {
        /// A file in the folder of all runs
        #[arg(long)]
        file: PathBuf,
        /// The worker binary
        #[arg(long)]
        worker: PathBuf,
        /// GPUs that the workers on this host need
        #[arg(long, default_value_t = 0)]
        gpus: usize,
    },
    /// Let a run save at its next step and end, from anywhere that sees its folder; a queued one is cancelled
    Stop {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// The job to stop
        #[arg(long, default_value_t = Job::Train)]
        job: Job,
    },
    /// Let a running training save at its next step and go on, and wait until that checkpoint is committed
    Checkpoint {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// Print step and seconds as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let something happen to a run at a chosen step, and measure what that costs beside a run that nothing happens to
    Rehearse(RehearseArguments),
    /// Print what `launch` would run, and run nothing
    Plan {
        /// Which run and how.
        #[command(flatten)]
        run: RunArguments,
    },
    /// Show where a run stands, from its files alone
    Status {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the logs of the workers and of their launcher, merged by time
    Logs {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// Which lines.
        #[command(flatten)]
        lines: LogsArguments,
    },
    /// Watch a run on a screen that renews itself, from its files alone
    Top {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// The job to watch [default: the one that was active last]
        #[arg(long)]
        job: Option<Job>,
        /// Print a single frame as text
        #[arg(long)]
        once: bool,
    },
    /// List all runs: state, progress, newest checkpoint, Slurm job, age of the last sign of life
    List {
        /// The folder that the runs are in
        #[arg(default_value = "runs")]
        root: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain the newest failure of a run: who was first, who followed, what was done about it
    Why {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// The job [default: the one that was active last]
        #[arg(long)]
        job: Option<Job>,
        /// The generation whose failure to explain [default: the last that failed]
        #[arg(long, value_name = "N")]
        generation: Option<u64>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where the time of a run went, and how often it should save
    Goodput {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// The job to account for [default: the one that was active last]
        #[arg(long)]
        job: Option<Job>,
        /// Print as JSON, in seconds
        #[arg(long)]
        json: bool,
    },
    /// Write a run as one self-contained HTML page: curves, figures, pictures, failures, goodput, configuration and provenance
    Report {
        /// The run's folder, as runs/NAME
        run: PathBuf,
        /// The file to write or replace [default: report.html in the run's folder]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Print as JSON where the page is and what is in it
        #[arg(long)]
        json: bool,
    },
    /// List, verify, compare and clear away the checkpoints of a run, or take the weights out of them
    Checkpoints {
        /// What about them.
        #[command(subcommand)]
        command: CheckpointsCommand,
    },
    /// Say what a data set holds, whether it is whole, and what its numbers are like
    Shards {
        /// What about it.
        #[command(subcommand)]
        command: ShardsCommand,
    },
}

/// What about a data set. URL is the folder with its dataset.json, or the one with the splits train/ and validation/.
#[derive(Debug, Subcommand)]
pub(crate) enum ShardsCommand {
    /// Columns, sizes and origin, by the manifest alone
    Inspect {
        /// A local path, file:///PATH, or the URL of an object store
        url: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and compare it with what was written; exit code 1 if a file is damaged or missing
    Verify {
        /// A local path, file:///PATH, or the URL of an object store
        url: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write it as other trainers read it; images stay encoded as they are
    Export {
        /// A local path, file:///PATH, or the URL of an object store
        url: String,
        /// An empty place: one folder per split
        #[arg(long)]
        to: String,
        /// For whom
        #[arg(long)]
        format: Format,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Range, mean and deviation of each column's numbers, and the sizes of encoded rows
    Stats {
        /// A local path, file:///PATH, or the URL of an object store
        url: String,
        /// Rows to read, spread evenly over the data set
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        rows: u64,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// What about the checkpoints. RUN is a run's folder, as runs/NAME; or, where no run is needed, a folder or URL that holds checkpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointsCommand {
    /// List them, newest first
    List {
        /// The run's folder, or a place that holds checkpoints
        run: String,
        /// Also what interrupted saves have left
        #[arg(long)]
        all: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and compare it with what was saved; exit code 1 if a checkpoint is damaged
    Verify {
        /// The run's folder, or a place that holds checkpoints
        run: String,
        /// Only the checkpoints of this step
        #[arg(long, value_name = "N")]
        step: Option<u64>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which ones [checkpoint] of the run, or another rule, would clear away; with --yes do it
    Prune {
        /// The run's folder, or a place that holds checkpoints
        run: String,
        /// What stays.
        #[command(flatten)]
        keep: Keep,
        /// Remove them
        #[arg(long)]
        yes: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which tensors of two checkpoints differ and by how much; exit code 1 if any do
    Diff {
        /// A run (its newest checkpoint), or one of its steps, as runs/NAME@1000
        a: String,
        /// Another one, or a step of the same run
        b: String,
        /// Print as JSON, with every tensor
        #[arg(long)]
        json: bool,
    },
    /// Write the networks of the newest good one as the official implementation does, for diffusers' from_pretrained and for
    /// model.initial_weights; without the optimizer's state, which is a Python pickle there
    Export {
        /// The run's folder, as runs/NAME
        run: String,
        /// Where to: a folder or a URL
        #[arg(long, value_name = "FOLDER")]
        to: String,
        /// The moving average of the weights instead of the weights
        #[arg(long)]
        ema: bool,
        /// Those of this step instead of the newest
        #[arg(long, value_name = "N")]
        step: Option<u64>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// What shall happen, and to which run.
#[derive(Debug, Args)]
pub(crate) struct RehearseArguments {
    /// kill-rank, kill-host, hang, preempt or full-disk
    pub(crate) fault: Fault,
    /// Configuration of both runs, which come into <run.root>/<run.name>-rehearsals
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Change one key of the configuration; `train.steps=N` makes the runs short
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// After which step it happens; full-disk: at the first save after it
    #[arg(long, value_name = "N")]
    pub(crate) at_step: u64,
    /// To which worker; with kill-host to that worker's host
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub(crate) rank: usize,
    /// Number of hosts, instead of cluster.nodes
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<usize>,
    /// Number of workers on each host, instead of cluster.workers_per_node
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which run and how.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Configuration of a new run
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the run to go on with, as runs/NAME; its newest checkpoint that verifies is taken
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["config", "fresh"])]
    pub(crate) resume: Option<PathBuf>,
    /// Change one key of the configuration, as train.steps=500; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// What the workers do: scenes, import, autoencoder, encode, train, evaluate, probe, concepts, compose or edit
    #[arg(long, default_value_t = Job::Train)]
    pub(crate) job: Job,
    /// Number of hosts, instead of cluster.nodes: a Slurm job is submitted; in an allocation so many of its hosts are used, the others are
    /// spares
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<usize>,
    /// Hosts that ssh reaches, without Slurm, instead of cluster.hosts
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Number of workers on each host, instead of cluster.workers_per_node
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Profile so many training steps (train.profile_steps): traces in the run's folder, and where the time of a step goes in rank 0's log
    #[arg(long, value_name = "STEPS")]
    pub(crate) profile: Option<u64>,
    /// Put a run (or job) that is already in the folder aside, as NAME.1, and start anew
    #[arg(long)]
    pub(crate) fresh: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("orchestrator launch").is_err());
        assert!(parse("orchestrator launch --config a.toml --resume runs/a").is_err());
        assert!(parse("orchestrator launch --resume runs/a --fresh").is_err());
        assert!(parse("orchestrator launch --config a.toml --job trane").is_err());
        assert!(parse("orchestrator launch --config a.toml --job encode --set data.resolution=64 --set run.seed=2").is_ok());
    }
}
