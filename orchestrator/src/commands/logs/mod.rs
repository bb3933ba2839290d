//! `orchestrator logs`: what the workers and their launcher wrote, merged by time, as it is or as it comes.

mod filter;
mod follow;
mod line;
mod merge;
mod printer;
mod selection;
mod since;
mod source;
mod tail;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use common::job::Job;
use common::run_dir::RunDir;

pub(crate) use filter::Since;
pub(crate) use line::Level;
pub(crate) use selection::Generations;
pub(crate) use tail::tail;

use super::output::unless_unread;
use crate::exit::Failure;
use crate::observe::chosen_job;
use filter::Filter;
use follow::Follower;
use merge::merge;
use printer::Printer;
use selection::Selection;
use source::Ending;

/// Which lines to print.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArguments {
    /// The job whose logs to print [default: the one that was active last]
    #[arg(long)]
    job: Option<Job>,
    /// Only these workers', as 3 or 0,5,7; may be given several times
    #[arg(long = "rank", value_name = "N", value_delimiter = ',')]
    ranks: Vec<usize>,
    /// Only the workers' on this host; may be given several times
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Only lines of at least this level; what has no level, as the launcher's own words, is always shown
    #[arg(long)]
    level: Option<Level>,
    /// Only lines that match this regular expression, with the lines without a time that follow them
    #[arg(long, value_name = "REGEX")]
    grep: Option<regex::bytes::Regex>,
    /// Only what was written since: 10m ago, or since a time as 2026-11-25T12:00:00Z
    #[arg(long, value_name = "AGO|TIME")]
    since: Option<Since>,
    /// The generation, or `all` [default: the newest]
    #[arg(long, value_name = "N|all")]
    generation: Option<Generations>,
    /// Go on printing what is added, also by generations to come, until interrupted
    #[arg(short, long)]
    follow: bool,
}

/// Prints them.
pub(crate) fn run(run: PathBuf, arguments: LogsArguments) -> Result<ExitCode, Failure> {
    let run = RunDir::new(run);
    let folder = run.job_dir(chosen_job(&run, arguments.job)?);
    let LogsArguments { ranks, hosts, level, grep, since, generation, follow, .. } = arguments;
    let selection = Selection::new(folder, ranks, hosts, since.map(|since| since.0))?;
    let mut printer = Printer::new(Filter { level, grep, since: since.map(|since| since.0) });
    if follow {
        return done(Follower::new(selection, generation)?.run(&mut printer));
    }
    let mut found = false;
    for generation in selection.generations(generation)? {
        let mut sources = selection.open(selection.files(generation)?)?;
        found |= !sources.is_empty();
        printer.title(sources.iter().map(|source| &source.author));
        let mut sources: Vec<_> = sources.iter_mut().collect();
        let printed = merge(&mut sources, Ending::Final, &mut |source, message| printer.print(source, message));
        if printed.is_err() {
            return done(printed.map_err(Into::into));
        }
    }
    if !found {
        return Err(selection.nothing());
    }
    done(printer.flush().map_err(Into::into))
}

/// A reader that has gone away ends the command, and is no failure.
fn done(printed: anyhow::Result<()>) -> Result<ExitCode, Failure> {
    match printed {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) => Ok(unless_unread(Err(error)).map(|()| ExitCode::SUCCESS)?),
            Err(error) => Err(error.into()),
        },
    }
}
