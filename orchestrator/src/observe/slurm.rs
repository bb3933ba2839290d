//! What Slurm says about a job that waits in its queue.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long squeue may take: a busy controller must not keep a monitoring command waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Queue {
    /// Where the job stands.
    Known {
        /// Its state, as `PENDING`.
        state: String,
        /// Why it waits, as `Resources`.
        reason: String,
        /// When it is expected to start, in the cluster's local time, if Slurm has an idea.
        start: Option<String>,
    },
    /// There is no such job any more: it was cancelled, or it ended without a word.
    Gone,
    /// There is no squeue here, or it did not answer in time.
    Silent,
}

impl Queue {
    /// Asks squeue about a job.
    pub(crate) fn ask(slurm_job: &str) -> Self {
        let mut command = Command::new("squeue");
        command.args(["-h", "-j", slurm_job, "-o", "%T %r %S"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
            .spawn()
            .and_then(answer)
            .map_or(Self::Silent, |(answered, text)| if answered { Self::read(&text) } else { Self::Silent })
    }

    /// `PENDING Resources 2026-11-25T12:00:00`; the reason may have blanks in it. An unknown job is an empty line or a complaint.
    fn read(text: &str) -> Self {
        let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        match &words[..] {
            [state, reason @ .., start]
                if !reason.is_empty() && state.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_') =>
            {
                let start = (*start != "N/A").then(|| (*start).to_owned());
                Self::Known { state: (*state).to_owned(), reason: reason.join(" "), start }
            }
            [] => Self::Gone,
            _ if text.contains("Invalid job id") => Self::Gone,
            _ => Self::Silent,
        }
    }
}

/// Whether the process ended in time, and what it wrote.
fn answer(mut child: Child) -> io::Result<(bool, String)> {
    let asked = Instant::now();
    while child.try_wait()?.is_none() {
        if asked.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok((false, String::new()));
        }
        sleep(Duration::from_millis(5));
    }
    // A process of its own that squeue left behind may hold the pipe open: read what is there from a process that has ended.
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text)?;
    }
    if let (true, Some(mut complaint)) = (text.trim().is_empty(), child.stderr.take()) {
        complaint.read_to_string(&mut text)?;
    }
    Ok((true, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_squeue() {
        let known = |reason: &str, start: Option<&str>| Queue::Known {
            state: "PENDING".into(),
            reason: reason.into(),
            start: start.map(ToOwned::to_owned),
        };
        assert_eq!(Queue::read("PENDING Resources 2026-11-25T12:00:00\n"), known("Resources", Some("2026-11-25T12:00:00")));
        assert_eq!(
            Queue::read("PENDING ReqNodeNotAvail, UnavailableNodes:n04 N/A\n"),
            known("ReqNodeNotAvail, UnavailableNodes:n04", None)
        );
        assert_eq!(Queue::read(""), Queue::Gone);
        assert_eq!(Queue::read("slurm_load_jobs error: Invalid job id specified\n"), Queue::Gone);
        assert_eq!(Queue::read("slurm_load_jobs error: Unable to contact slurm controller\n"), Queue::Silent);
    }
}
