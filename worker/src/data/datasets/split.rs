//! Which samples are trained on and which are held out.

use super::{ImportError, Member};
use crate::scenes::Split;
use common::config::ImportConfig;

/// What a data set says about a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// It is of this split.
    As(Split),
    /// The data set has no splits.
    Unsplit,
    /// It is of a split that nobody here uses, as the test split.
    Apart,
}

impl Published {
    /// What a word in the name of a folder or archive says.
    pub(super) fn by_word(word: &str) -> Option<Self> {
        match word {
            "train" | "training" => Some(Self::As(Split::Train)),
            "val" | "valid" | "validation" => Some(Self::As(Split::Validation)),
            "test" => Some(Self::Apart),
            _ => None,
        }
    }
}

/// Held out of a data set that has no splits, unless the configuration says otherwise.
const SHARE: f64 = 0.1;

/// The samples of a split, by their number and in their order.
pub(super) fn members(all: &[Member], config: &ImportConfig, split: Split, url: &str) -> Result<Vec<usize>, ImportError> {
    let belongs = |member: &Member| match (member.published, config.validation_share) {
        (Published::Apart, _) => false,
        (Published::As(Split::Validation), Some(_)) => false,
        (Published::As(published), None) => published == split,
        (Published::As(Split::Train), Some(share)) => by_name(&member.group, share) == split,
        (Published::Unsplit, share) => by_name(&member.group, share.unwrap_or(SHARE)) == split,
    };
    let limit = match split {
        Split::Train => config.train,
        Split::Validation => config.validation,
    };
    let found = all.iter().enumerate().filter(|(_, member)| belongs(member)).map(|(index, _)| index);
    let found: Vec<usize> = found.take(limit.unwrap_or(usize::MAX)).collect();
    if found.is_empty() {
        let hint = match split {
            Split::Train => "lower import.validation_share, or name another import.source",
            Split::Validation => "set import.validation_share, or name an import.source that has one",
        };
        return Err(ImportError::Split { url: url.to_owned(), split: split.name(), hint });
    }
    Ok(found)
}

/// The split of a name: the same on every machine and whatever other names there are.
fn by_name(name: &str, share: f64) -> Split {
    let digest = blake3::hash(name.as_bytes());
    let number = digest.as_bytes().iter().take(6).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    if (number as f64) < share * (1u64 << 48) as f64 { Split::Validation } else { Split::Train }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use common::config::ImportLayout;

    fn config() -> ImportConfig {
        ImportConfig {
            layout: ImportLayout::Images,
            source: String::new(),
            crop: 1.0,
            max_objects: None,
            frame_stride: 1,
            validation_share: None,
            train: None,
            validation: None,
        }
    }

    fn both(all: &[Member], config: &ImportConfig) -> [Vec<usize>; 2] {
        Split::ALL.map(|split| members(all, config, split, "here").unwrap())
    }

    #[test]
    fn a_share_is_held_out_by_name_and_groups_stay_together() {
        let member = |i: usize, published| Member { name: format!("{i}"), group: format!("video {}", i / 8), published };
        let all: Vec<_> = (0..4000).map(|i| member(i, Published::Unsplit)).collect();
        let share = ImportConfig { validation_share: Some(0.25), ..config() };
        let [train, validation] = both(&all, &share);
        assert_eq!(train.len() + validation.len(), 4000);
        assert!((800..1200).contains(&validation.len()), "{}", validation.len());
        let videos = |members: &[usize]| members.iter().map(|i| i / 8).collect::<std::collections::BTreeSet<_>>();
        assert!(videos(&train).is_disjoint(&videos(&validation)));
        let [_, fewer] = both(&all[..2000], &share);
        assert_eq!(fewer[..], validation[..fewer.len()], "a sample's split does not depend on the others");
    }

    #[test]
    fn published_splits_are_kept_unless_a_share_is_asked_for() {
        let kinds = [Published::As(Split::Train), Published::As(Split::Validation), Published::Apart];
        let all: Vec<_> =
            (0..300).map(|i| Member { name: format!("{i}"), group: format!("{i}"), published: kinds[i % 3] }).collect();
        let [train, validation] = both(&all, &ImportConfig { train: Some(3), ..config() });
        assert_eq!((train, validation.len()), (vec![0, 3, 6], 100));
        let [train, validation] = both(&all, &ImportConfig { validation_share: Some(0.5), ..config() });
        assert_eq!(train.len() + validation.len(), 100, "of the published training samples");
        assert!(validation.iter().all(|i| i % 3 == 0));
        let error = members(&all[..1], &config(), Split::Validation, "here").unwrap_err().to_string();
        assert!(error.contains("validation") && error.contains("import.validation_share"), "{error}");
    }
}
