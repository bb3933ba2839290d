//! What is known of the real images, kept in the run's folder: the next run of the job need not look at them again.
//!
//! `real.json`, which is sealed, says what `real.safetensors` was made from and what its digest is. A file that is not the one described,
//! torn ones with it, is none.

use super::side::Side;
use anyhow::{Context, Result, bail};
use common::run_dir::replace_file;
use common::sealed::{open, seal};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tch::Tensor;

const DESCRIPTION: &str = "real.json";
const TENSORS: &str = "real.safetensors";
/// Format of the files. Another one belongs to whatever changes features.
const VERSION: u32 = 1;

/// What the features are made from. The same again has the same, up to rounding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeFrom {
    /// Fingerprint of the split.
    pub(super) fingerprint: String,
    /// Number of images, the first of the split.
    pub(super) images: u64,
    /// SHA-256 of Inception's weights.
    pub(super) weights: String,
    /// `run.seed`, by which the images are drawn whose features are kept.
    pub(super) seed: u64,
}

/// `real.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    made_from: MadeFrom,
    /// BLAKE3 of the file of tensors, in hexadecimal.
    tensors: String,
}

/// What lies in `folder`, if it is made from just this; says in the log what is wrong with what is damaged.
pub(super) fn read(folder: &Path, made_from: &MadeFrom) -> Option<Side> {
    let document = fs::read(folder.join(DESCRIPTION)).ok()?;
    let found = understood(&document, folder, made_from).unwrap_or_else(|error| {
        tracing::warn!("{}: what is kept of the real images cannot be used: {error:#}", folder.display());
        None
    });
    found.inspect(|_| tracing::info!("{}: the real images are known from before", folder.display()))
}

fn understood(document: &[u8], folder: &Path, made_from: &MadeFrom) -> Result<Option<Side>> {
    let (description, _) = open::<Description>(document, VERSION..=VERSION).context(DESCRIPTION)?;
    if description.made_from != *made_from {
        return Ok(None);
    }
    let path = folder.join(TENSORS);
    let found = digest(&path).context(TENSORS)?;
    if found != description.tensors {
        bail!("{TENSORS}: its digest is {found} instead of {}", description.tensors);
    }
    let stored: HashMap<String, Tensor> = Tensor::read_safetensors(&path)?.into_iter().collect();
    let side = Side::new(made_from.images, made_from.seed);
    for (name, mut tensor) in side.tensors() {
        tensor.f_copy_(stored.get(name).with_context(|| format!("{TENSORS} has no {name}"))?)?;
    }
    Ok(Some(side))
}

/// Keeps what is known of the real images in `folder`.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn write(folder: &Path, made_from: &MadeFrom, side: &Side) -> Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(TENSORS);
    Tensor::write_safetensors(&side.tensors(), &path)?;
    let (document, _) = seal(&Description { version: VERSION, made_from: made_from.clone(), tensors: digest(&path)? })?;
    Ok(replace_file(&folder.join(DESCRIPTION), &document, 0o644)?)
}

fn digest(path: &Path) -> std::io::Result<String> {
    Ok(blake3::hash(&fs::read(path)?).to_hex().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::fid::FEATURES;
    use tch::{Device, Kind};

    fn made_from(images: u64) -> MadeFrom {
        MadeFrom { fingerprint: "rooms".into(), images, weights: "inception".into(), seed: 1 }
    }

    /// Of images with features that follow from their numbers.
    fn side(images: u64) -> Side {
        let mut side = Side::new(images, 1);
        let features = Tensor::arange(images as i64 * FEATURES, (Kind::Float, Device::Cpu)).sin().view([images as i64, FEATURES]);
        side.add(0..images, &features);
        side
    }

    #[test]
    fn what_was_kept_comes_back_bit_by_bit_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("fid");
        assert!(read(&folder, &made_from(5)).is_none(), "there is no folder yet");
        write(&folder, &made_from(5), &side(5)).unwrap();
        let found = read(&folder, &made_from(5)).unwrap();
        for ((name, found), (_, expected)) in found.tensors().iter().zip(side(5).tensors()) {
            assert!(*found == expected, "{name}");
        }
        let MadeFrom { fingerprint, weights, .. } = made_from(5);
        for other in [
            made_from(4),
            MadeFrom { seed: 2, ..made_from(5) },
            MadeFrom { fingerprint: fingerprint + "!", ..made_from(5) },
            MadeFrom { weights: weights + "!", ..made_from(5) },
        ] {
            assert!(read(&folder, &other).is_none(), "{other:?}");
        }
        write(&folder, &made_from(4), &side(4)).unwrap();
        assert!(read(&folder, &made_from(5)).is_none() && read(&folder, &made_from(4)).is_some(), "the newest is kept");
    }

    #[test]
    fn what_is_torn_or_altered_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &made_from(4), &side(4)).unwrap();
        for name in [DESCRIPTION, TENSORS] {
            let path = folder.path().join(name);
            let whole = fs::read(&path).unwrap();
            let mut altered = whole.clone();
            altered[whole.len() / 2] ^= 1;
            for spoilt in [altered, whole[..whole.len() - 9].to_vec(), Vec::new()] {
                fs::write(&path, spoilt).unwrap();
                assert!(read(folder.path(), &made_from(4)).is_none(), "{name}");
            }
            fs::remove_file(&path).unwrap();
            assert!(read(folder.path(), &made_from(4)).is_none(), "{name} is missing");
            fs::write(&path, whole).unwrap();
        }
        assert!(read(folder.path(), &made_from(4)).is_some());
    }
}
