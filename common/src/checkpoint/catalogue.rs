//! Which attempts a listing shows, and which of them may go: pure arithmetic over names.

use std::collections::BTreeMap;

/// Name of the manifest in an attempt's folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// Ends the name of a part.
pub(super) const PART_SUFFIX: &str = ".safetensors";

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
    fn parse(folder: &str) -> Option<Self> {
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
    /// The names of its parts.
    pub(super) parts: Vec<String>,
}

/// The attempts among `names`, newest first. Objects of foreign layout are passed over, so that nobody ever deletes them.
pub(super) fn attempts<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Found> {
    let mut found: BTreeMap<Place, Found> = BTreeMap::new();
    for name in names {
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        let Some(place) = Place::parse(folder) else { continue };
        let unfinished = file.split_once('#').map_or(file, |(written, _)| written);
        let ours = unfinished == MANIFEST || unfinished.strip_suffix(PART_SUFFIX).is_some_and(is_part_name);
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

/// Which attempts (newest first, the good ones marked) may go when the newest `keep` good ones stay: what is older than those, and
/// uncommitted ones older than the newest good one, whose writers are dead, since a live one saves later steps. As long as fewer than
/// `keep` are good, nothing that was committed goes: even a damaged one may be what somebody can still rescue.
pub(super) fn expendable(attempts: &[(Found, bool)], keep: usize) -> Vec<&Found> {
    let mut good_and_newer = 0;
    let mut expendable = Vec::new();
    for (attempt, good) in attempts {
        let needed = if attempt.committed { keep } else { 1 };
        if good_and_newer >= needed {
            expendable.push(attempt);
        }
        good_and_newer += usize::from(*good);
    }
    expendable
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

    proptest! {
        #[test]
        fn the_newest_good_ones_stay(attempts in prop::collection::vec((any::<bool>(), any::<bool>()), 0..12), keep in 2_usize..5) {
            let attempts: Vec<_> = attempts.into_iter().enumerate().rev()
                .map(|(step, (committed, good))| (found(step as u64, committed), committed && good)).collect();
            let expendable: Vec<_> = expendable(&attempts, keep).into_iter().map(|attempt| attempt.place.step).collect();
            let stays: Vec<_> = attempts.iter().filter(|(attempt, _)| !expendable.contains(&attempt.place.step)).collect();
            let good = attempts.iter().filter(|(_, good)| *good);
            let newest_good: Vec<_> = good.take(keep).collect();
            prop_assert!(newest_good.iter().all(|attempt| stays.contains(attempt)));
            if let Some((oldest, _)) = newest_good.get(keep - 1) {
                prop_assert!(stays.iter().all(|(attempt, _)| attempt.place >= oldest.place), "nothing older than the kept ones stays");
            } else {
                prop_assert!(attempts.iter().filter(|(attempt, _)| attempt.committed).all(|attempt| stays.contains(&attempt)));
            }
            let newest = newest_good.first().map_or(0, |(newest, _)| newest.place.step);
            prop_assert!(stays.iter().all(|(attempt, _)| attempt.committed || attempt.place.step >= newest), "no old torso stays");
        }
    }
}
