//! One job: when it ends, what state it is in, and putting it back into the queue.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::tool::{SlurmError, line, run};
use crate::supervisor::StopReason;

/// What Slurm says about a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JobInfo {
    /// `RUNNING`, `COMPLETING`, `CANCELLED` and so on.
    pub(crate) state: String,
    /// When its time is over, unless it has no limit.
    pub(crate) end: Option<SystemTime>,
    /// Whether Slurm has decided to give its hosts to somebody else.
    preempted: bool,
}

impl JobInfo {
    /// What `scontrol show job --oneliner` says, with times as seconds since 1970.
    fn parse(text: &str) -> Option<Self> {
        let fields: HashMap<&str, &str> = text.split_whitespace().filter_map(|field| field.split_once('=')).collect();
        let time =
            |name| fields.get(name)?.parse::<u64>().ok().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let state = (*fields.get("JobState")?).to_owned();
        let preempted = time("PreemptTime").is_some() || state == "PREEMPTED";
        Some(Self { state, end: time("EndTime"), preempted })
    }

    /// Whose signal it was that asked the job to end, as far as Slurm tells.
    pub(crate) fn reason(&self) -> StopReason {
        match self.state.as_str() {
            _ if self.preempted => StopReason::Preemption,
            "TIMEOUT" => StopReason::WallTime,
            _ => StopReason::Terminate,
        }
    }
}

/// Asks about a job.
pub(crate) fn job_info(job: &str) -> Result<JobInfo, SlurmError> {
    let arguments = ["--oneliner", "show", "job", job].map(str::to_owned);
    let (answer, _) = run("scontrol", &arguments)?;
    JobInfo::parse(&answer).ok_or(SlurmError::Answer { line: line("scontrol", &arguments), answer })
}

/// The state of a job that is queued or running; none once Slurm has forgotten it or it has ended.
pub(crate) fn queue_state(job: &str) -> Result<Option<String>, SlurmError> {
    let arguments = ["--noheader", "--job", job, "--format=%T"].map(str::to_owned);
    match run("squeue", &arguments) {
        Ok((state, _)) => Ok(state.lines().next().map(str::to_owned)),
        Err(SlurmError::Refused { said, .. }) if said.contains("Invalid job id") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a running job back into the queue: Slurm ends it and starts it again when it can.
pub(crate) fn requeue(job: &str) -> Result<(), SlurmError> {
    run("scontrol", &["requeue", job].map(str::to_owned)).map(|_| ())
}

/// Cancels a job that is queued.
pub(crate) fn cancel(job: &str) -> Result<(), SlurmError> {
    run("scancel", &[job.to_owned()]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_signal_it_was_is_read_off_the_job() {
        let reason = |text: &str| JobInfo::parse(text).map(|info| info.reason());
        let job = |rest: &str| format!("JobId=7 JobName=lsd {rest} NodeList=node[1-4] Command=/x/train.sh --set a=b");
        assert_eq!(reason(&job("JobState=RUNNING EndTime=2000000 PreemptTime=999990")), Some(StopReason::Preemption));
        assert_eq!(reason(&job("JobState=TIMEOUT EndTime=1000001 PreemptTime=None")), Some(StopReason::WallTime));
        assert_eq!(reason(&job("JobState=COMPLETING EndTime=1000000")), Some(StopReason::Terminate));
        assert_eq!(reason(&job("JobState=RUNNING EndTime=Unknown")), Some(StopReason::Terminate));
        assert_eq!(reason("slurm_load_jobs error"), None);
    }
}
