//! `orchestrator checkpoint`: have a running training save at its next step and go on, by a file in its folder, and wait for the commit.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use common::job::Job;
use common::journal::{Entry, Event};
use common::run_dir::RunDir;
use serde_json::json;

use super::output::print;
use super::stop::hand_in;
use super::words::brief_seconds;
use crate::exit::{Failure, OrBadInput};
use crate::observe::{Observer, Standing, Wanted, jobs};
use crate::story::{Outline, since_1970, time};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// No wish for saying how far the step is, nor for who joined.
const WANTED: Wanted = Wanted { crowd: false, metrics: 0 };

/// Asks, and returns when a checkpoint that was begun after that is committed.
pub(crate) fn run(run: PathBuf, as_json: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(run);
    let mut observer = Observer::new(&folder, Job::Train, WANTED).or_bad_input()?;
    match standing(&observer) {
        Standing::Starting | Standing::Running | Standing::Waiting => {}
        other => return Err(Failure::bad_input(refusal(&folder, other))),
    }
    let seen = observer.entries.len();
    let request = folder.save_request();
    fs::write(&request, []).with_context(|| format!("cannot write {}", request.display()))?;
    hand_in(&request, &folder)?;
    loop {
        observer.look()?;
        let since = &observer.entries[seen.min(observer.entries.len())..];
        if let Some((step, seconds)) = answer(since) {
            if as_json {
                print(&format!("{:#}\n", json!({"step": step, "seconds": seconds})))?;
            } else {
                print(&format!("checkpoint of step {step} committed in {}\n", brief_seconds(seconds)))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Some((step, cause)) = refused(since) {
            return Err(anyhow!("the checkpoint of step {step} was not saved, and training goes on: {cause}").into());
        }
        let standing = standing(&observer);
        if !standing.is_alive() {
            let path = folder.path().display();
            return Err(anyhow!("{path}: it is {} now, and no checkpoint was committed since you asked", standing.name()).into());
        }
        sleep(LOOK_AGAIN);
    }
}

/// The first checkpoint among `entries` that was not saved after it was asked for: its step, and why.
fn refused(entries: &[Entry]) -> Option<(u64, &str)> {
    let asked = entries.iter().position(|entry| entry.event == Event::SaveRequested)?;
    entries[asked..].iter().find_map(|entry| match entry.event {
        Event::CheckpointFailed { step } => Some((step, entry.reason.as_str())),
        _ => None,
    })
}

/// The first checkpoint among `entries` that was begun after it was asked for: its step, and how long it took.
fn answer(entries: &[Entry]) -> Option<(u64, f64)> {
    let asked = entries.iter().position(|entry| entry.event == Event::SaveRequested)?;
    let when = time(&entries[asked].time)?;
    entries[asked..].iter().find_map(|entry| match entry.event {
        Event::CheckpointCommitted { step, seconds } => {
            let begun = time(&entry.time)?.as_secs_f64() - seconds;
            // The journal has milliseconds.
            (begun + 0.001 >= when.as_secs_f64()).then_some((step, seconds))
        }
        _ => None,
    })
}

fn standing(observer: &Observer) -> Standing {
    let now = since_1970(SystemTime::now());
    let silence = observer.written.map(|written| now.saturating_sub(written));
    Standing::of(observer.status.as_ref(), silence, &Outline::of(&observer.entries), now)
}

/// Why there is nobody to ask.
fn refusal(folder: &RunDir, standing: Standing) -> String {
    let path = folder.path().display();
    let alive = |job: &Job| Observer::new(folder, *job, WANTED).is_ok_and(|observer| self::standing(&observer).is_alive());
    match standing {
        Standing::Queued => format!("{path}: it waits in Slurm's queue: there is nothing to save yet"),
        Standing::Stopping | Standing::Ending => format!("{path}: it is {} already", standing.name()),
        _ => match jobs(folder).into_iter().filter(|job| *job != Job::Train).find(alive) {
            Some(job) => format!("{path}: what is running here is the job {job}, and only train saves checkpoints"),
            None => format!("{path}: nothing is running here, so there is nothing to save"),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(milliseconds: u64, event: Event) -> Entry {
        let time = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)).to_string();
        Entry { time, generation: 1, event, reason: String::new() }
    }

    /// A save that was under way when somebody asked is not what they have asked for.
    #[test]
    fn only_a_checkpoint_that_was_begun_after_the_wish_is_the_answer() {
        let committed = |step, seconds| Event::CheckpointCommitted { step, seconds };
        let mut entries = vec![entry(1000, committed(100, 0.5)), entry(2000, Event::SaveRequested)];
        assert_eq!(answer(&entries), None);
        entries.push(entry(2500, committed(200, 0.6)));
        assert_eq!(answer(&entries), None, "begun at 1.9 s");
        entries.push(entry(4000, committed(203, 1.4)));
        assert_eq!(answer(&entries), Some((203, 1.4)));
        assert_eq!(answer(&entries[2..]), None, "nobody has asked");
        assert_eq!(refused(&entries), None);
        entries.insert(2, Entry { reason: "no space".into(), ..entry(2600, Event::CheckpointFailed { step: 202 }) });
        assert_eq!(refused(&entries), Some((202, "no space")));
    }
}
