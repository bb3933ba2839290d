//! Whose a run is according to its journal: a Slurm job that waits for its hosts, or one that has them. A lock tells that only of
//! processes that exist.

use common::journal::{Entry, Event};

/// The Slurm job in charge of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InCharge {
    /// Its number.
    pub(crate) job: String,
    /// Whether a coordinator of it has been there already.
    pub(crate) launched: bool,
}

/// The job that the journal leaves in charge, if any.
pub(crate) fn in_charge(entries: &[Entry]) -> Option<InCharge> {
    let mut standing = None;
    for entry in entries {
        match &entry.event {
            Event::Submitted { slurm_job } | Event::Requeued { slurm_job } => {
                standing = Some(InCharge { job: slurm_job.clone(), launched: false });
            }
            Event::Launched { slurm_job, .. } => standing = slurm_job.clone().map(|job| InCharge { job, launched: true }),
            Event::Finished | Event::Ended { .. } => standing = None,
            _ => {}
        }
    }
    standing
}

/// The exit code of the last launch if it came to an end of its own.
pub(crate) fn last_exit_code(entries: &[Entry]) -> Option<u8> {
    let last = |event: &Event| match event {
        Event::Launched { .. } => Some(None),
        Event::Finished => Some(Some(0)),
        Event::Ended { exit_code } => Some(Some(*exit_code)),
        _ => None,
    };
    entries.iter().rev().find_map(|entry| last(&entry.event)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::job::Job;

    fn story(events: &[Event]) -> Vec<Entry> {
        let entry = |event: &Event| Entry { time: String::new(), generation: 1, event: event.clone(), reason: String::new() };
        events.iter().map(entry).collect()
    }

    #[test]
    fn a_run_is_its_job_s_from_the_submission_to_the_end_and_again_when_requeued() {
        let launched = |slurm_job: Option<&str>| Event::Launched {
            job: Job::Train,
            world: 4,
            version: "1".into(),
            slurm_job: slurm_job.map(str::to_owned),
            host: "node1".into(),
        };
        let submitted = Event::Submitted { slurm_job: "7".into() };
        let mut events = vec![submitted];
        let queued = Some(InCharge { job: "7".into(), launched: false });
        assert_eq!(in_charge(&story(&events)), queued);
        events.push(launched(Some("7")));
        assert_eq!(in_charge(&story(&events)), Some(InCharge { job: "7".into(), launched: true }));
        assert_eq!(last_exit_code(&story(&events)), None, "it was killed, or is running");
        events.push(Event::Ended { exit_code: 75 });
        assert_eq!((in_charge(&story(&events)), last_exit_code(&story(&events))), (None, Some(75)));
        events.push(Event::Requeued { slurm_job: "7".into() });
        assert_eq!(in_charge(&story(&events)), queued);
        events.push(launched(None));
        assert_eq!(in_charge(&story(&events)), None);
    }
}
