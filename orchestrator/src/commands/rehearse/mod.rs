//! `orchestrator rehearse`: lets something happen to a run on purpose and measures what it costs, beside a run that nothing happens to.

mod report;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use common::config::{Config, load};
use common::rehearsal::{Fault, Order, VARIABLE};
use common::run_dir::RunDir;

use crate::cli::RehearseArguments;
use crate::exit::{Failure, OrBadInput};
use crate::preflight::WORKER_VARIABLE;
use report::Report;

/// The two runs, in a folder beside those of the configuration.
const NAMES: [&str; 2] = ["undisturbed", "disturbed"];

/// Runs both, compares, reports. Exits with 1 when they differ.
pub(crate) fn run(arguments: &RehearseArguments) -> Result<ExitCode, Failure> {
    let config = load::from_file(&arguments.config, &arguments.overrides).or_bad_input()?;
    check(arguments, &config)?;
    let root = Path::new(&config.run.root).join(format!("{}-rehearsals", config.run.name));
    // Checkpoints are rank 0's.
    let rank = if arguments.fault == Fault::FullDisk { 0 } else { arguments.rank };
    let order = Order { fault: arguments.fault, step: arguments.at_step, rank };
    let [undisturbed, disturbed] = NAMES.map(|name| RunDir::new(root.join(name)));
    let launch = |name: &str, order: Option<Order>| launch(arguments, &root, name, order);
    eprintln!("1 of 2: the run that nothing happens to, in {}", undisturbed.path().display());
    launch(NAMES[0], None)?;
    eprintln!("2 of 2: {} at step {}, in {}", order.fault, order.step, disturbed.path().display());
    launch(NAMES[1], Some(order))?;
    let report = Report::of(&undisturbed, &disturbed)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(arguments: &RehearseArguments, config: &Config) -> Result<(), Failure> {
    let (step, steps) = (arguments.at_step, config.train.steps);
    if !(1..steps).contains(&step) {
        let text = format!("--at-step {step}: the run has {steps} steps (train.steps); choose one from 1 to {}", steps - 1);
        return Err(Failure::bad_input(text));
    }
    let nodes = arguments.nodes.unwrap_or(config.cluster.nodes);
    let world = nodes * arguments.workers.unwrap_or(config.cluster.workers_per_node);
    if arguments.rank >= world {
        return Err(Failure::bad_input(format!(
            "--rank {}: there are {world} workers, so ranks 0 to {}",
            arguments.rank,
            world - 1
        )));
    }
    Ok(())
}

/// One run from its start to its end, in a process of its own, with whatever launches in between.
fn launch(arguments: &RehearseArguments, root: &Path, name: &str, order: Option<Order>) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let folder = root.join(name);
    let common = |command: &mut Command| {
        command.args(arguments.nodes.iter().flat_map(|nodes| ["--nodes".to_owned(), nodes.to_string()]));
        command.args(arguments.workers.iter().flat_map(|workers| ["--workers".to_owned(), workers.to_string()]));
        command.arg("--wait").stdin(Stdio::null()).stdout(Stdio::null());
        command.env(WORKER_VARIABLE, crate::preflight::find_worker());
    };
    let mut first = Command::new(&program);
    first.arg("launch").arg("--config").arg(&arguments.config).arg("--fresh");
    let own = [format!("run.root={}", root.display()), format!("run.name={name}")];
    // Every loss is compared.
    let settings = arguments.overrides.iter().cloned().chain(own).chain(["train.log_every=1".into()]);
    first.args(settings.flat_map(|setting| ["--set".to_owned(), setting]));
    common(&mut first);
    if let Some(order) = order {
        first.env(VARIABLE, order.to_string());
    }
    let mut status = first.status().with_context(|| format!("cannot start {}", program.display()))?;
    // A run that was asked to end, as by a preemption, goes on when it is resumed.
    if order.is_some() && matches!(status.code(), Some(75 | 143)) {
        let mut again = Command::new(&program);
        again.arg("launch").arg("--resume").arg(&folder);
        common(&mut again);
        status = again.status()?;
    }
    if !status.success() {
        bail!("the run in {} did not come to its end ({status}); `orchestrator why {0}` tells more", folder.display());
    }
    Ok(())
}
