//! Running one of Slurm's tools with a time limit.

use std::io::{self, Read};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::launchers::in_path;

/// How long a tool may take: slurmctld answers within a second or is in trouble.
const LIMIT: Duration = Duration::from_secs(20);
/// How often a running tool is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why Slurm did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlurmError {
    /// No such program.
    #[error("{tool} is not in PATH: is this a machine of a Slurm cluster? (cluster.launcher = \"local\" or \"mpirun\" need none)")]
    Missing {
        /// The program.
        tool: &'static str,
    },
    /// It could not be run.
    #[error("cannot run {tool}: {source}")]
    Run {
        /// The program.
        tool: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It takes too long.
    #[error("{tool} did not answer within {} s: is slurmctld running?", limit.as_secs())]
    TimedOut {
        /// The program.
        tool: &'static str,
        /// The time it had.
        limit: Duration,
    },
    /// It said no.
    #[error("Slurm refused: {said} (`{line}`)")]
    Refused {
        /// Its last words.
        said: String,
        /// The command line.
        line: String,
    },
    /// Its answer makes no sense.
    #[error("cannot understand the answer of `{line}`: {answer}")]
    Answer {
        /// The command line.
        line: String,
        /// The answer.
        answer: String,
    },
}

/// Whether the tools of Slurm are in PATH.
pub(crate) fn is_here() -> bool {
    in_path("sbatch").is_some()
}

/// Runs `tool arguments`; its standard output, and its standard error. The times of `scontrol` are seconds since 1970.
pub(super) fn run(tool: &'static str, arguments: &[String]) -> Result<(String, String), SlurmError> {
    if in_path(tool).is_none() {
        return Err(SlurmError::Missing { tool });
    }
    // For people everywhere but here.
    let times = (tool == "scontrol").then_some(("SLURM_TIME_FORMAT", "%s"));
    let failed = |source| SlurmError::Run { tool, source };
    let child =
        Command::new(tool).args(arguments).envs(times).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let output = wait(child.map_err(failed)?).map_err(failed)?.ok_or(SlurmError::TimedOut { tool, limit: LIMIT })?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok((out.trim().into(), err.trim().into()));
    }
    let said = last_words(&err).or(last_words(&out)).unwrap_or("it said nothing").to_owned();
    Err(SlurmError::Refused { said, line: line(tool, arguments) })
}

/// The command line for messages.
pub(super) fn line(tool: &str, arguments: &[String]) -> String {
    format!("{tool} {}", arguments.join(" "))
}

/// The line that says most, without the program's name and the word `error` in front.
fn last_words(text: &str) -> Option<&str> {
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    let line = line.split_once(": error: ").map_or(line, |(_, rest)| rest);
    Some(line.trim())
}

/// Waits for the end; nothing if that takes too long. What the tools of Slurm say fits into a pipe.
fn wait(mut child: Child) -> io::Result<Option<Output>> {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(LOOK_AGAIN);
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout)?;
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut stderr)?;
    }
    Ok(Some(Output { status, stdout, stderr }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_reason() {
        let text = "sbatch: error: invalid partition specified: nowhere\nsbatch: error: Batch job submission failed: Invalid partition name specified\n";
        assert_eq!(last_words(text), Some("Batch job submission failed: Invalid partition name specified"));
        assert_eq!(last_words("\n"), None);
    }
}
