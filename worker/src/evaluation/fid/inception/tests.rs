//! What the network takes, and what it says of files that are not its own; that its features are right, `tests/peers/fid.py` checks.

use super::super::testing::random_weights;
use super::*;
use common::config::Split;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::fs;
use tokio::runtime::Runtime;

fn load(file: &Path, sha256: Option<&str>) -> Result<Inception, String> {
    let runtime = Runtime::new().unwrap();
    let config = FidConfig {
        weights: file.display().to_string(),
        sha256: sha256.map(str::to_owned),
        images: 2,
        real: 0,
        split: Split::Train,
        subsets: 1,
        subset_size: 2,
    };
    let loaded = Inception::load(&config, Device::Cpu, runtime.handle()).map_err(|error| {
        assert!(error.is_bad_input(), "{error}");
        error.to_string()
    });
    assert!(!loaded.as_ref().is_err_and(|message| message.contains('\n')), "{loaded:?}");
    loaded
}

#[test]
fn features_are_those_of_each_image_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inception.safetensors");
    fs::write(&file, random_weights()).unwrap();
    let inception = load(&file, None).unwrap();
    let digest = inception.digest.clone();
    assert_eq!(load(&file, Some(&digest)).unwrap().digest, digest);

    let pixels = (Tensor::arange(3 * 40 * 48 * 3, (Kind::Float, Device::Cpu)).square() * 0.01).sin() * 127.0 + 128.0;
    let images = pixels.to_kind(Kind::Uint8).view([3, 40, 48, 3]);
    let together = inception.features(&images);
    assert_eq!(together.size(), [3, FEATURES]);
    let scale = together.abs().max().double_value(&[]);
    assert!(scale.is_finite() && scale > 0.0);
    for (image, features) in images.split(1, 0).iter().zip(together.split(1, 0)) {
        let difference = (inception.features(image) - &features).abs().max().double_value(&[]);
        assert!(difference < 1e-4 * scale, "{difference} of {scale}");
    }
    let difference = (together.get(0) - together.get(1)).abs().max().double_value(&[]);
    assert!(difference > 1e-3 * scale, "any two images look alike");
}

#[test]
fn files_of_other_networks_are_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inception.safetensors");
    let message = load(&file, None).unwrap_err();
    assert!(message.contains("inception.safetensors"), "{message}");
    fs::write(&file, "PK").unwrap();
    assert!(load(&file, None).unwrap_err().contains("not a whole safetensors file"));

    let whole = random_weights();
    fs::write(&file, &whole).unwrap();
    let message = load(&file, Some(&"0".repeat(64))).unwrap_err();
    assert!(message.contains("expected sha256 000") && message.contains("fid.sha256"), "{message}");

    let stored = SafeTensors::deserialize(&whole).unwrap();
    let without = |name: &str| {
        let views = stored.iter().filter(|(other, _)| *other != name).map(|(name, view)| (name.to_owned(), view));
        fs::write(&file, safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
        load(&file, None)
    };
    let message = without("Mixed_7c.branch_pool.bn.running_var").unwrap_err();
    assert!(message.contains("1 missing (Mixed_7c.branch_pool.bn.running_var)"), "{message}");
    // The classifier and the counters of the normalisations are not needed.
    for name in ["fc.weight", "Mixed_7c.branch_pool.bn.num_batches_tracked"] {
        without(name).unwrap();
    }
    let renamed = stored.iter().map(|(name, view)| (name.replace("Mixed_5b.branch5x5_1.conv", "AuxLogits.conv0.conv"), view));
    fs::write(&file, safetensors::serialize(renamed, None::<HashMap<String, String>>).unwrap()).unwrap();
    let message = load(&file, None).unwrap_err();
    assert!(message.contains("Mixed_5b.branch5x5_1.conv.weight") && message.contains("AuxLogits.conv0.conv.weight"), "{message}");
}
