//! The journal in a nutshell: who is in charge, where, since when, and what is there to go on with.

use common::control::Evaluation;
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

/// The Slurm job in charge of a run. A lock tells only of processes that exist; the journal also of a job that waits for its hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InCharge {
    /// Its number.
    pub(crate) job: String,
    /// Whether a coordinator of it is there, or was and was killed.
    pub(crate) launched: bool,
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
    /// How the model did on held-out images, the last time that anybody looked.
    pub(crate) evaluation: Option<Evaluation>,
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

    /// The Slurm job that the journal leaves in charge, if any.
    pub(crate) fn in_charge(&self) -> Option<InCharge> {
        let running = || self.slurm_job.clone().filter(|_| self.launched.is_some() && self.over.is_none());
        let waiting = self.pending.clone().map(|job| InCharge { job, launched: false });
        waiting.or_else(|| running().map(|job| InCharge { job, launched: true }))
    }

    /// The orchestrator's exit code if the newest launch came to an end of its own and Slurm has none in its queue.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        self.over.filter(|_| self.pending.is_none()).map(|over| match over {
            Over::Finished => 0,
            Over::Ended(code) => code,
        })
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
            Event::Evaluated(evaluation) => self.evaluation = Some(evaluation.clone()),
            Event::Failed { .. } => self.failures += 1,
            Event::Finished => self.over = Some(Over::Finished),
            // After a submission: it was cancelled, or Slurm has refused.
            Event::Ended { exit_code } => (self.over, self.pending) = (Some(Over::Ended(*exit_code)), None),
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
        let seven = |launched| Some(InCharge { job: "7".into(), launched });
        assert_eq!((running.in_charge(), running.exit_code()), (seven(true), None));
        story.push(Event::Ended { exit_code: 75 });
        assert_eq!((outline(story.clone()).in_charge(), outline(story.clone()).exit_code()), (None, Some(75)));
        story.push(Event::Requeued { slurm_job: "7".into() });
        let requeued = outline(story.clone());
        assert_eq!((requeued.pending.as_deref(), requeued.over), (Some("7"), Some(Over::Ended(75))));
        assert_eq!((requeued.in_charge(), requeued.exit_code()), (seven(false), None));
        let cancelled = outline([&story[..], &[Event::Ended { exit_code: 143 }]].concat());
        assert_eq!((cancelled.in_charge(), cancelled.exit_code()), (None, Some(143)));
        story.push(launched(None));
        assert_eq!((outline(story.clone()).pending, outline(story).in_charge()), (None, None));
    }
}
