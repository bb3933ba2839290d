//! Which configurations describe the same trajectory: the question behind "may this checkpoint be resumed under that file?".

use serde_json::json;

use super::{Config, Decay};

/// Digest (BLAKE3, hexadecimal) of every key that decides which weights step k has: seed, order of samples, networks, diffusion,
/// recipe. Not of names, places, logging, checkpointing, evaluation or the cluster: those may change from one start to the next.
///
/// The data's content is not in here: a checkpoint carries the data set's own fingerprint. Nor is `train.steps` as long as the
/// learning rates do not depend on it, so that a finished run can be trained on.
pub fn config_hash(config: &Config) -> String {
    let train = &config.train;
    let horizon = match train.decay {
        Decay::Constant => None,
        Decay::Cosine => Some(train.steps),
    };
    let autoencoder = &config.autoencoder;
    let mut model = config.model.clone();
    model.unet.gradient_checkpointing = false;
    let trajectory = json!({
        "seed": config.run.seed,
        "data": { "resolution": config.data.resolution, "shuffle_window": config.data.shuffle_window },
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
        },
    });
    blake3::hash(trajectory.to_string().as_bytes()).to_hex().to_string()
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
        for moves in
            ["run.seed=2", "train.global_batch=64", "train.steps=10", "model.slot_attention.slots=5", "diffusion.latent_scale=0.5"]
        {
            assert_ne!(hash(&[moves]), original, "{moves}");
        }
        for still in [
            "run.name=other",
            "data.latents=s3://bucket/latents",
            "cluster.workers_per_node=4",
            "checkpoint.every_steps=7",
            "train.log_every=1",
            "model.unet.gradient_checkpointing=true",
        ] {
            assert_eq!(hash(&[still]), original, "{still}");
        }
    }

    /// A key that came later must not be in the text that is hashed while it is at its default.
    #[test]
    fn a_run_from_before_a_key_existed_keeps_its_identity() {
        let config = from_str(include_str!("fixture.toml"), "fixture.toml", &[]).unwrap();
        let model = serde_json::to_value(&config.model).unwrap();
        let keys = |table: &serde_json::Value| table.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&model), "backbone slot_attention unet");
        let slot_attention = "heads initialisation iterations mlp_hidden out_size slot_size slots";
        assert_eq!(keys(&model["slot_attention"]), slot_attention);
        assert_eq!(keys(&model["unet"]), "attention block_channels heads layers_per_block norm_groups position_embedding");
    }

    #[test]
    fn a_run_at_a_constant_learning_rate_may_be_trained_on() {
        assert_eq!(hash(&["train.decay=constant"]), hash(&["train.decay=constant", "train.steps=9000"]));
    }
}
