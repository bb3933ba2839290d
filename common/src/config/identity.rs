//! Which configurations describe the same trajectory: the question behind "may this checkpoint be resumed under that file?".

use serde_json::{Value, json};

use super::{Config, Decay};

/// Digest (BLAKE3, hexadecimal) of every key that decides which weights step k has: seed, order of samples, networks, diffusion,
/// recipe. Not of names, places, logging, checkpointing, evaluation or the cluster: those may change from one start to the next.
///
/// The data's content, and so how its images are stored, is not in here: a checkpoint carries the data set's own fingerprint. Nor is `train.steps` as long as the
/// learning rates do not depend on it, so that a finished run can be trained on.
pub fn config_hash(config: &Config) -> String {
    let train = &config.train;
    let horizon = match train.decay {
        Decay::Constant => None,
        Decay::Cosine => Some(train.steps),
    };
    let autoencoder = &config.autoencoder;
    // Where gradients come from does not change them.
    let mut model = config.model.clone();
    model.unet.gradient_checkpointing = false;
    let mut trajectory = json!({
        "seed": config.run.seed,
        "data": {
            "resolution": config.data.resolution,
            "shuffle_window": config.data.shuffle_window,
            "flip": config.data.flip,
        },
        "latents": {
            "channels": autoencoder.latent_channels,
            "levels": autoencoder.block_channels.len(),
            "scaling_factor": autoencoder.scaling_factor,
        },
        "model": model,
        "diffusion": config.diffusion,
        "train": {
            "horizon": horizon,
            "decay": train.decay,
            "global_batch": train.global_batch,
            "groups": train.groups,
            "optimizer": train.optimizer,
            "clip_norm": train.clip_norm,
            "ema_decay": train.ema_decay,
            "slot_dropout": train.slot_dropout,
            "precision": train.precision,
            "wire": train.reduction.wire,
        },
    });
    leave_out_defaults(&mut trajectory);
    blake3::hash(trajectory.to_string().as_bytes()).to_hex().to_string()
}

/// A key that came later counts only where its value changes what was done before there was the key, so that runs from that time keep
/// their hash and can be resumed.
fn leave_out_defaults(trajectory: &mut Value) {
    let later = [
        ("/data/flip", json!(false)),
        ("/model/slot_attention/start", json!("random")),
        ("/model/slot_attention/bi_level", json!(false)),
        ("/model/slot_attention/position_embedding", json!("cartesian")),
        ("/model/unet/gradient_checkpointing", json!(false)),
        ("/diffusion/snr_gamma", json!(0.0)),
        ("/diffusion/offset_noise", json!(0.0)),
        ("/train/slot_dropout", json!(0.0)),
        ("/train/precision", json!("fp32")),
        ("/train/wire", json!("fp32")),
    ];
    for (pointer, default) in later {
        if trajectory.pointer(pointer) == Some(&default)
            && let Some((table, key)) = pointer.rsplit_once('/')
            && let Some(keys) = trajectory.pointer_mut(table).and_then(Value::as_object_mut)
        {
            keys.remove(key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::config_hash;
    use crate::config::load::from_str;

    fn hash(overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let text = include_str!("fixture.toml");
        config_hash(&from_str(text, "fixture.toml", &overrides).unwrap())
    }

    #[test]
    fn only_what_moves_the_weights_changes_the_hash() {
        let original = hash(&[]);
        for moves in [
            "run.seed=2",
            "data.flip=true",
            "train.global_batch=64",
            "train.steps=10",
            "train.slot_dropout=0.1",
            "train.precision=bf16",
            "train.reduction.wire=bf16",
            "model.slot_attention.slots=5",
            "model.slot_attention.start=k-means",
            "model.slot_attention.position_embedding=fourier",
            "diffusion.latent_scale=0.5",
            "diffusion.snr_gamma=5",
            "diffusion.offset_noise=0.1",
        ] {
            assert_ne!(hash(&[moves]), original, "{moves}");
        }
        for still in [
            "run.name=other",
            "data.latents=s3://bucket/latents",
            "data.prefetch_mib=0",
            "data.cache_folder=/scratch/blocks",
            "data.image_format=jpeg",
            "cluster.workers_per_node=4",
            "checkpoint.every_steps=7",
            "checkpoint.keep_best=3",
            "train.log_every=1",
            "train.evaluation.every_steps=100",
            "train.micro_batch=2",
            "train.reduction.bucket_mib=4",
            "train.not_finite=skip",
            "train.cuda_graph=auto",
            "cluster.device=cpu",
            "cluster.collective=nccl",
            "evaluate.sampler=dpm-solver++",
            "edit.recipe=[{ image = 1, remove = [2] }]",
            "concepts.images=7",
            "compose.scene=[{ concepts = [1] }]",
            "fid.weights=inception.safetensors",
            "probe.steps=10",
            "model.unet.gradient_checkpointing=true",
        ] {
            assert_eq!(hash(&[still]), original, "{still}");
        }
        assert_eq!(hash(&["data.cache_folder=/scratch/blocks", "data.cache_decoded=true"]), original);
    }

    /// A key that came later must not be in the text that is hashed while it is at its default.
    #[test]
    fn a_run_from_before_a_key_existed_still_has_its_hash() {
        assert_eq!(hash(&[]), "1b24845b199f6a54e66b07bbb0f169707751081f1a431965c59ac0bff580d5b7");
    }

    #[test]
    fn a_run_at_a_constant_learning_rate_may_be_trained_on() {
        assert_eq!(hash(&["train.decay=constant"]), hash(&["train.decay=constant", "train.steps=9000"]));
    }
}
