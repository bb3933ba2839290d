//! What a generation was told of that did not end it, and may explain what did.

use common::journal::{Entry, Event};
use serde::Serialize;

/// Something worth knowing about a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Remark {
    /// When it was noticed.
    pub(crate) time: String,
    /// The generation.
    pub(crate) generation: u64,
    /// What, in words.
    pub(crate) text: String,
}

/// Devices that stood out before the first step, steps whose gradients were no numbers, slots that look collapsed, and checkpoints that were
/// not saved, of one generation, oldest first.
pub(crate) fn remarks(entries: &[Entry], generation: u64) -> Vec<Remark> {
    let own = entries.iter().filter(|entry| entry.generation == generation);
    let remark = |entry: &Entry| {
        let text = match &entry.event {
            Event::Outlier { rank, host } => format!("rank {rank} on {host}: {}", entry.reason),
            Event::Setback(setback) => setback.to_string(),
            Event::SlotsCollapsed { step } => format!("after step {step} the slots look collapsed: {}", entry.reason),
            Event::CheckpointFailed { step } => format!("the checkpoint of step {step} was not saved: {}", entry.reason),
            _ => return None,
        };
        Some(Remark { time: entry.time.clone(), generation, text })
    };
    own.filter_map(remark).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at, started};
    use super::*;
    use common::control::{Setback, SetbackKind};

    #[test]
    fn remarks_are_those_of_one_generation() {
        let outlier = |rank| Event::Outlier { rank, host: "n02".into() };
        let skipped = Event::Setback(Setback { step: 7, kind: SetbackKind::Skipped });
        let mut entries = vec![at(0.0, 1, started()), at(1.0, 1, outlier(3)), at(2.0, 2, started()), at(3.0, 2, outlier(5))];
        entries.insert(2, at(1.5, 1, skipped));
        entries.insert(3, at(1.6, 1, Event::CheckpointFailed { step: 8 }));
        entries.insert(4, at(1.7, 1, Event::SlotsCollapsed { step: 9 }));
        (entries[1].reason, entries[3].reason) = ("it is slow".into(), "no space".into());
        entries[4].reason = "one slot wins all".into();
        let texts = |generation| remarks(&entries, generation).into_iter().map(|remark| remark.text).collect::<Vec<_>>();
        let told = ["rank 3 on n02: it is slow", "step 7 was skipped: its gradients were no numbers"];
        assert_eq!(
            texts(1),
            [
                &told[..],
                &["the checkpoint of step 8 was not saved: no space", "after step 9 the slots look collapsed: one slot wins all"]
            ]
            .concat()
        );
        assert_eq!((texts(2).len(), texts(3).len()), (1, 0));
    }
}
