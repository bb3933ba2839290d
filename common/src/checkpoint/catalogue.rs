//! Which attempts a listing shows, and which of them may go: pure arithmetic over names.

use std::collections::BTreeMap;

use crate::config::BestBy;

/// The object that names the newest checkpoint, for people.
pub(super) const LATEST: &str = "LATEST";
/// The object that names the run whose checkpoints these are.
pub(super) const OWNER: &str = "OWNER";
/// Name of the manifest in an attempt's folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// Ends the name of a part.
pub(super) const PART_SUFFIX: &str = ".safetensors";

/// Name of the note in which a writer says which parts it has written.
pub(super) fn share_name(writer: usize) -> String {
    format!("share-{writer:05}.json")
}

fn is_share_name(name: &str) -> bool {
    let number = name.strip_prefix("share-").and_then(|rest| rest.strip_suffix(".json")).and_then(|digits| digits.parse().ok());
    number.is_some_and(|writer| share_name(writer) == name)
}

/// Where an attempt to save lies. The order is that of age: step, then generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) step: u64,
    pub(super) generation: u64,
    pub(super) random: u64,
}

impl Place {
    pub(super) fn folder(&self) -> String {
        format!("{:010}/{:06}-{:016x}", self.step, self.generation, self.random)
    }

    pub(super) fn manifest(&self) -> String {
        format!("{}/{MANIFEST}", self.folder())
    }

    /// Reads `<step>/<generation>-<random>`; anything that this program would not have written is not a place.
    pub(super) fn parse(folder: &str) -> Option<Self> {
        let (step, rest) = folder.split_once('/')?;
        let (generation, random) = rest.split_once('-')?;
        let place =
            Self { step: step.parse().ok()?, generation: generation.parse().ok()?, random: u64::from_str_radix(random, 16).ok()? };
        (place.folder() == folder).then_some(place)
    }
}

/// An attempt to save, as far as a listing tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) place: Place,
    /// Whether a manifest lies there: whether it was committed.
    pub(super) committed: bool,
    /// The names of its parts, and of the notes about them.
    pub(super) parts: Vec<String>,
}

/// Which checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest good ones, two at least.
    pub last: usize,
    /// Those of every so many steps, for ever; 0 for none.
    pub every: u64,
    /// The best.
    pub best: usize,
    /// What makes them so.
    pub by: BestBy,
}

impl Retention {
    /// The newest `last`.
    pub fn last(last: usize) -> Self {
        Self { last, every: 0, best: 0, by: BestBy::default() }
    }
}

/// What is known of an attempt when old ones are cleared away.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) found: Found,
    /// Whether every byte is as it should be.
    pub(super) good: bool,
    /// How good the state is: the smaller, the better.
    pub(super) cost: Option<f64>,
}

/// The attempts among `names`, newest first. Objects of foreign layout are passed over, so that nobody ever deletes them.
pub(super) fn attempts<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Found> {
    let mut found: BTreeMap<Place, Found> = BTreeMap::new();
    for name in names {
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        let Some(place) = Place::parse(folder) else { continue };
        let unfinished = file.split_once('#').map_or(file, |(written, _)| written);
        let ours =
            unfinished == MANIFEST || is_share_name(unfinished) || unfinished.strip_suffix(PART_SUFFIX).is_some_and(is_part_name);
        if !ours {
            continue;
        }
        let attempt = found.entry(place.clone()).or_insert_with(|| Found { place, committed: false, parts: Vec::new() });
        attempt.committed |= file == MANIFEST;
        if unfinished == file && file != MANIFEST {
            attempt.parts.push(name.to_owned());
        }
    }
    found.into_values().rev().collect()
}

/// Whether a part may have this name.
pub(super) fn is_part_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

/// Which attempts (newest first) may go: what is older than the newest `retention.last` good ones, unless it stays for its step or its
/// cost; and uncommitted ones older than the newest good one, whose writers are dead, since a live one saves later steps. As long as
/// fewer are good, nothing that was committed goes: even a damaged one may be what somebody can still rescue.
pub(super) fn expendable(attempts: &[Candidate], retention: Retention) -> Vec<&Found> {
    let best = best(attempts, retention.best);
    let stays = |Candidate { found, .. }: &Candidate| {
        let step = found.place.step;
        found.committed && (retention.every > 0 && step.is_multiple_of(retention.every) || best.contains(&&found.place))
    };
    let mut good_and_newer = 0;
    let mut expendable = Vec::new();
    for attempt in attempts {
        let needed = if attempt.found.committed { retention.last } else { 1 };
        if good_and_newer >= needed && !stays(attempt) {
            expendable.push(&attempt.found);
        }
        good_and_newer += usize::from(attempt.good);
    }
    expendable
}

/// The `count` committed attempts with the smallest costs; of equal ones, the newer.
fn best(attempts: &[Candidate], count: usize) -> Vec<&Place> {
    let judged = attempts.iter().filter(|attempt| attempt.found.committed);
    let mut judged: Vec<(f64, &Place)> = judged.filter_map(|attempt| Some((attempt.cost?, &attempt.found.place))).collect();
    // Stable, and newest first before.
    judged.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    judged.into_iter().take(count).map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(step: u64, committed: bool) -> Found {
        Found { place: Place { step, generation: 1, random: step }, committed, parts: Vec::new() }
    }

    #[test]
    fn only_our_own_layout_is_read() {
        let ours = "0000000020/000003-00000000000000ab";
        let names = [
            format!("{ours}/weights.safetensors"),
            format!("{ours}/manifest.json"),
            "0000000100/000001-00000000000000ac/ema.safetensors#2".into(),
            "0000000003/000001-00000000000000ad/notes.txt".into(),
            "0000000003/000001-00000000000000ad/Weights.safetensors".into(),
            "3/000001-00000000000000ad/weights.safetensors".into(),
            "0000000003/000001-00000000000000AD/weights.safetensors".into(),
            "0000000003/weights.safetensors".into(),
            "x/0000000003/000001-00000000000000ad/weights.safetensors".into(),
            "README".into(),
        ];
        let attempts = attempts(names.iter().map(String::as_str));
        let places: Vec<_> = attempts.iter().map(|attempt| (attempt.place.step, attempt.committed, attempt.parts.len())).collect();
        assert_eq!(places, [(100, false, 0), (20, true, 1)]);
        assert_eq!(attempts[1].place.folder(), ours);
    }

    /// Committed, good, cost.
    type Fate = (bool, bool, Option<u8>);

    proptest! {
        #[test]
        fn what_is_asked_for_stays_and_nothing_else_that_is_old(
            fates in prop::collection::vec(any::<Fate>(), 0..14), last in 2_usize..5, every in 0_u64..6, best in 0_usize..3,
        ) {
            let candidate = |(step, (committed, good, cost)): (usize, Fate)| Candidate {
                found: found(step as u64, committed), good: committed && good, cost: cost.map(f64::from),
            };
            let attempts: Vec<_> = fates.into_iter().enumerate().rev().map(candidate).collect();
            let retention = Retention { last, every, best, by: BestBy::default() };
            let gone: Vec<u64> = expendable(&attempts, retention).iter().map(|found| found.place.step).collect();
            let step = |attempt: &&Candidate| attempt.found.place.step;
            let stays: Vec<_> = attempts.iter().filter(|attempt| !gone.contains(&step(attempt))).collect();

            let newest_good: Vec<_> = attempts.iter().filter(|attempt| attempt.good).take(last).collect();
            prop_assert!(newest_good.iter().all(|attempt| stays.contains(attempt)));
            let committed = || attempts.iter().filter(|attempt| attempt.found.committed);
            let milestone = |attempt: &&Candidate| every > 0 && step(attempt).is_multiple_of(every);
            prop_assert!(committed().filter(milestone).all(|attempt| stays.contains(&attempt)));
            let mut costs: Vec<f64> = committed().filter_map(|attempt| attempt.cost).collect();
            costs.sort_by(f64::total_cmp);
            let border = best.checked_sub(1).and_then(|index| costs.get(index.min(costs.len().saturating_sub(1))).copied());
            let better = |attempt: &&Candidate| attempt.cost.zip(border).is_some_and(|(cost, border)| cost < border);
            prop_assert!(committed().filter(better).all(|attempt| stays.contains(&attempt)));

            if let Some(oldest) = newest_good.get(last - 1) {
                let asked_for = |attempt: &&Candidate| milestone(attempt)
                    || attempt.cost.zip(border).is_some_and(|(cost, border)| cost <= border);
                prop_assert!(stays.iter().all(|attempt| step(attempt) >= step(oldest) || asked_for(attempt)), "nothing else is old");
            } else {
                prop_assert!(committed().all(|attempt| stays.contains(&attempt)));
            }
            let newest = newest_good.first().map_or(0, step);
            prop_assert!(stays.iter().all(|attempt| attempt.found.committed || step(attempt) >= newest), "no old torso stays");
        }
    }
}
