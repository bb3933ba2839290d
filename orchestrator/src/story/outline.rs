//! The journal in a nutshell: who is in charge, where, since when, and what is there to go on with.

use common::journal::{Entry, Event};

use super::{Time, time};

/// How the newest launch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The job did all it was to do.
    Finished,
    /// Anything else, with the orchestrator's exit code.
    Ended(u8),
}

/// What the journal says about the present.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outline {
    /// When the newest coordinator took charge.
    pub(crate) launched: Option<Time>,
    /// Its host.
    pub(crate) coordinator_host: String,
    /// The Slurm job that it runs in, or ran in.
    pub(crate) slurm_job: Option<String>,
    /// How its launch ended, unless it has not.
    pub(crate) over: Option<Over>,
    /// The Slurm job that the run waits for.
    pub(crate) pending: Option<String>,
    /// The newest generation.
    pub(crate) generation: u64,
    /// Its number of workers.
    pub(crate) world: usize,
    /// Its hosts; empty for the coordinator's alone.
    pub(crate) hosts: Vec<String>,
    /// When the newest launch made its first step.
    pub(crate) first_step: Option<Time>,
    /// The newest checkpoint: steps and time.
    pub(crate) checkpoint: Option<(u64, Time)>,
    /// How many failures there were.
    pub(crate) failures: usize,
    /// The newest entry.
    pub(crate) last: Option<Time>,
}

impl Outline {
    /// The outline of a journal.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut outline = Self::default();
        entries.iter().for_each(|entry| outline.add(entry));
        outline
    }

    fn add(&mut self, entry: &Entry) {
        let when = time(&entry.time);
        self.last = when.or(self.last);
        match &entry.event {
            Event::Submitted { slurm_job } | Event::Requeued { slurm_job } => self.pending = Some(slurm_job.clone()),
            Event::Launched { slurm_job, host, world, .. } => {
                (self.launched, self.over, self.pending, self.first_step) = (when, None, None, None);
                (self.slurm_job, self.coordinator_host, self.world) = (slurm_job.clone(), host.clone(), *world);
            }
            Event::GenerationStarted { world, hosts } => {
                self.generation = entry.generation;
                self.hosts.clone_from(hosts);
                // Journals from before the field existed say 0.
                self.world = if *world > 0 { *world } else { self.world };
            }
            Event::FirstStep { .. } => self.first_step = self.first_step.or(when),
            Event::CheckpointCommitted { step, .. } => self.checkpoint = when.map(|when| (*step, when)).or(self.checkpoint),
            Event::Failed { .. } => self.failures += 1,
            Event::Finished => self.over = Some(Over::Finished),
            Event::Ended { exit_code } => self.over = Some(Over::Ended(*exit_code)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, launched, started};
    use super::*;

    fn outline(events: Vec<Event>) -> Outline {
        let entries: Vec<Entry> = (0_u32..).zip(events).map(|(seconds, event)| at(f64::from(seconds), 1, event)).collect();
        Outline::of(&entries)
    }

    #[test]
    fn a_run_waits_for_slurm_until_it_is_launched_and_again_once_it_is_requeued() {
        let submitted = Event::Submitted { slurm_job: "7".into() };
        assert_eq!(outline(vec![submitted.clone()]).pending.as_deref(), Some("7"));
        let mut story = vec![submitted, launched(Some("7")), started()];
        let running = outline(story.clone());
        assert_eq!((running.pending.as_deref(), running.slurm_job.as_deref(), running.over), (None, Some("7"), None));
        assert_eq!((running.world, running.hosts.len(), running.generation), (2, 2, 1));
        story.extend([Event::Requeued { slurm_job: "7".into() }, Event::Ended { exit_code: 143 }]);
        let requeued = outline(story.clone());
        assert_eq!((requeued.pending.as_deref(), requeued.over), (Some("7"), Some(Over::Ended(143))));
        story.push(launched(None));
        assert_eq!(outline(story).pending, None);
    }
}
