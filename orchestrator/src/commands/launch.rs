//! `orchestrator launch`: start the workers of a run and stay with them to the end; from a login node, hand the run to Slurm.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use common::config::{Config, size};
use common::job::Job;
use common::journal::{self, Event, Journal, Revisions};
use common::revision;
use common::run_dir::RunDir;

use super::logs::tail;
use super::prepare::{Prepared, continuation, prepare, resolve, submission};
use super::summary;
use super::waiting;
use crate::cli::RunArguments;
use crate::coordinator::{self, Display, Launch};
use crate::exit::{Failure, OrBadInput};
use crate::launchers::{self, Where};
use crate::preflight;
use crate::run_folder::{self, Claim};
use crate::slurm::{self, Allocation, SlurmError, Submission};
use crate::story::Outline;
use crate::supervisor::{self, Outcome, StopReason};

/// Lines of the failed worker's log that are shown.
const LOG_LINES: usize = 8;

/// How a launch is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Only the final summary, as JSON, on standard output.
    pub(crate) json: bool,
    /// Follow a job that was handed to Slurm to its end.
    pub(crate) wait: bool,
    /// The launch before this one in the same Slurm job may have been killed.
    pub(crate) again: bool,
}

/// Launches and waits.
pub(crate) fn run(arguments: &RunArguments, manner: Manner) -> Result<ExitCode, Failure> {
    if manner.again {
        let journal = resolve(arguments)?.1.job_dir(arguments.job).journal();
        if let Some(code) = Outline::of(&journal::read(&journal).or_bad_input()?).exit_code() {
            return Ok(ExitCode::from(code));
        }
    }
    let prepared = prepare(arguments)?;
    let worker = preflight::check_worker(&prepared.spec.worker).or_bad_input()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(preflight::check_data(&prepared.config, prepared.job)).or_bad_input()?;
    if matches!(prepared.place, Where::Queue) {
        return queue(&prepared, arguments, manner);
    }
    let Prepared { config, job, run, intent, place, spec } = prepared;
    let Where::Here { launcher, hosts, allocation } = place else { return Ok(ExitCode::FAILURE) };
    preflight::check_hosts(launcher.as_ref(), &spec, &hosts, Path::new(&config.run.root)).or_bad_input()?;

    let Claim { journal, next_generation, lock } = run_folder::claim(&run, &config, job, intent).or_bad_input()?;
    let launch = Launch {
        job,
        folder: run.job_dir(job),
        journal,
        first_generation: next_generation,
        revisions: revisions(worker, arguments),
        cluster: config.cluster.clone(),
        hosts,
        allocation: allocation.clone(),
        launcher,
        spec,
        flops_per_image: (job == Job::Train).then(|| size::flops(&config).training()),
    };
    let outcome = runtime.block_on(coordinator::run(launch, Display::new(manner.json)))?;
    if let (Outcome::Stopped { reason, .. }, Some(allocation)) = (&outcome, &allocation) {
        go_on_later(*reason, &config, job, &run, allocation)?;
    }
    drop(lock);
    report(&outcome, &run, job, manner.json)?;
    Ok(ExitCode::from(outcome.exit_code()))
}

/// The git revisions of what is about to run.
fn revisions(worker: Option<String>, arguments: &RunArguments) -> Revisions {
    let own = env!("SOURCE_REVISION");
    let folder = arguments.config.as_deref().and_then(Path::parent);
    let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    Revisions {
        orchestrator: (!own.is_empty()).then(|| own.to_owned()),
        worker,
        config: folder.and_then(|folder| revision::of(folder, &["."])),
    }
}

/// Hands the run to Slurm.
fn queue(prepared: &Prepared, arguments: &RunArguments, manner: Manner) -> Result<ExitCode, Failure> {
    let Prepared { config, job, run, intent, .. } = prepared;
    preflight::check_shared(Path::new(&config.run.root)).or_bad_input()?;
    let submission = submission(prepared, arguments)?;
    // Slurm is asked first, so that what it refuses leaves nothing behind.
    if Path::new(&submission.script).is_file() {
        slurm::test_only(&submission).or_bad_input()?;
    }
    let Claim { mut journal, lock, .. } = run_folder::claim(run, config, *job, *intent).or_bad_input()?;
    write_script(&submission)?;
    let number = slurm::submit(&submission).or_bad_input()?;
    journal.append(0, Event::Submitted { slurm_job: number.clone() }, "orchestrator launch, from a login node")?;
    drop(lock);
    let path = run.path().display();
    if manner.wait {
        return waiting::follow(run, *job, &number, manner.json);
    }
    if manner.json {
        println!("{}", serde_json::json!({ "slurm_job": number, "run": run.path() }));
    } else {
        println!("submitted as Slurm job {number}\n");
        println!("  orchestrator status {path}      where it stands, also while it is queued");
        println!("  orchestrator top {path}         the same, live");
        println!("  orchestrator logs -f {path}     what the workers say");
        println!("  orchestrator stop {path}        save and end");
    }
    Ok(ExitCode::SUCCESS)
}

/// The job script, where no checkout has it.
fn write_script(submission: &Submission) -> anyhow::Result<()> {
    let script = Path::new(&submission.script);
    if script.is_file() {
        return Ok(());
    }
    fs::write(script, launchers::SCRIPT).with_context(|| format!("cannot write {}", script.display()))
}

/// A run that was stopped by its allocation goes back into the queue: the same job again, or, where that is not allowed, a job that waits
/// for the end of this one.
fn go_on_later(reason: StopReason, config: &Config, job: Job, run: &RunDir, allocation: &Allocation) -> Result<(), Failure> {
    if !reason.is_to_be_continued() || !config.cluster.slurm.requeue {
        return Ok(());
    }
    let mut journal = Journal::open(&run.job_dir(job).journal())?;
    let (number, why) = (&allocation.job, reason.name());
    // The record comes first: Slurm ends this process as soon as it requeues the job.
    journal.append(0, Event::Requeued { slurm_job: number.clone() }, format!("{why}: scontrol requeue"))?;
    match slurm::requeue(number) {
        Ok(()) => eprintln!("saved; the job is back in the queue ({why})"),
        Err(SlurmError::Refused { said, .. }) => {
            let submission = continuation(config, job, run, number)?;
            write_script(&submission)?;
            let next = slurm::submit(&submission);
            let next = next.inspect_err(|error| {
                // Otherwise the journal would leave this job in charge for ever. The error is told in any case.
                let _ = journal.append(0, Event::Ended { exit_code: 75 }, error.to_string());
            })?;
            journal.append(
                0,
                Event::Requeued { slurm_job: next.clone() },
                format!("{why}: Slurm does not requeue this job ({said})"),
            )?;
            eprintln!("saved; Slurm job {next} goes on with the run after this one ({why})");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Says how it ended: figures on standard output, failures on standard error.
pub(super) fn report(outcome: &Outcome, run: &RunDir, job: Job, json: bool) -> Result<(), Failure> {
    let named = if job == Job::Train { String::new() } else { format!(" --job {job}") };
    let what = if job.keeps_progress() { "go on" } else { "begin anew" };
    let resume = format!("{what} with `orchestrator launch --resume {}{named}`", run.path().display());
    match outcome {
        Outcome::Done(value) if json => println!("{}", serde_json::to_string_pretty(value)?),
        Outcome::Done(value) => print!("{}", summary::text(value)),
        Outcome::Stopped { reason, saved } => {
            let name = reason.name();
            let what = if *saved { "stopped in order" } else { "ended before everything was saved" };
            eprintln!("{what} after {name}; {resume}");
        }
        Outcome::Failed { failure, .. } if !failure.kind.restart_helps() => eprintln!("error: {failure}"),
        Outcome::Failed { failure, restarts } => {
            eprintln!("error: {failure} (generation {}, step {})", failure.generation, failure.step);
            if *restarts > 0 {
                eprintln!("gave up after {restarts} restarts without a new checkpoint in between");
            }
            show_log(failure, &run.job_dir(job));
        }
    }
    Ok(())
}

/// The last lines of the log that knows most about the failure.
fn show_log(failure: &supervisor::Failure, folder: &RunDir) {
    let launcher = folder.launcher_log(failure.generation);
    let own = failure.rank.map(|rank| folder.log_file(failure.generation, rank));
    for path in own.into_iter().chain([launcher]) {
        let lines = tail(&path, LOG_LINES).unwrap_or_default();
        if !lines.is_empty() {
            eprintln!("the last lines of {}:", path.display());
            lines.iter().for_each(|line| eprintln!("  {line}"));
            return;
        }
    }
}
