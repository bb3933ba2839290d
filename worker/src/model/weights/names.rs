//! What releases of the autoencoder call its tensors: diffusers' names, diffusers' older names, and the original ones of latent
//! diffusion, alone or inside of a whole Stable Diffusion.

/// Before every name of the autoencoder in a file that holds a whole Stable Diffusion.
const FIRST_STAGE: &str = "first_stage_model.";
/// A tensor that every autoencoder has, under its original name.
const ORIGINAL: &str = "decoder.mid.block_1.conv1.weight";

/// How the tensors of a file are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// As diffusers does, now or earlier.
    Diffusers,
    /// As the original code of latent diffusion does; the tensors behind this prefix alone are the autoencoder's.
    Original {
        /// [`FIRST_STAGE`] or nothing.
        prefix: &'static str,
        /// Levels of the decoder, which the original numbers from the deepest.
        levels: usize,
    },
}

impl Naming {
    /// The naming of a file with these tensors.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let original = |prefix: &'static str| {
            names.clone().any(|name| name.strip_prefix(prefix) == Some(ORIGINAL)).then(|| {
                let level = |name: &str| name.strip_prefix(prefix)?.strip_prefix("decoder.up.")?.split('.').next()?.parse().ok();
                Self::Original { prefix, levels: names.clone().filter_map(level).max().map_or(0, |last: usize| last + 1) }
            })
        };
        original(FIRST_STAGE).or_else(|| original("")).unwrap_or(Self::Diffusers)
    }

    /// diffusers' present name of a tensor; none when it belongs to another network in the file.
    pub(super) fn present(self, name: &str) -> Option<String> {
        match self {
            Self::Diffusers => {
                Some(of_attention(name, "mid_block.attentions.0", &OLD_ATTENTION).unwrap_or_else(|| name.to_owned()))
            }
            Self::Original { prefix, levels } => {
                let name = name.strip_prefix(prefix)?;
                // What the autoencoder was trained with: discriminator, perceptual distance, moving averages.
                let training = ["loss.", "model_ema."].iter().any(|start| name.starts_with(start));
                (!training).then(|| original(name, levels))
            }
        }
    }
}

/// Older diffusers' names inside of the attention, and the present ones.
const OLD_ATTENTION: [(&str, &str); 4] = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// The original names inside of the attention, and diffusers'.
const ORIGINAL_ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// diffusers' name of a tensor of the original autoencoder.
fn original(name: &str, levels: usize) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        [half, "norm_out", last] => format!("{half}.conv_norm_out.{last}"),
        [half, "mid", "block_1", ref rest @ ..] => format!("{half}.mid_block.resnets.0.{}", of_resnet(rest)),
        [half, "mid", "block_2", ref rest @ ..] => format!("{half}.mid_block.resnets.1.{}", of_resnet(rest)),
        [half, "mid", "attn_1", ..] => {
            let renamed = name.replacen("mid.attn_1", "mid_block.attentions.0", 1);
            of_attention(&renamed, &format!("{half}.mid_block.attentions.0"), &ORIGINAL_ATTENTION).unwrap_or(renamed)
        }
        ["encoder", "down", level, "block", block, ref rest @ ..] => {
            format!("encoder.down_blocks.{level}.resnets.{block}.{}", of_resnet(rest))
        }
        ["encoder", "down", level, "downsample", ref rest @ ..] => {
            format!("encoder.down_blocks.{level}.downsamplers.0.{}", rest.join("."))
        }
        ["decoder", "up", level, kind, ref rest @ ..] => {
            let level = level.parse().map_or_else(|_| level.to_owned(), |level: usize| format!("{}", (levels - 1).abs_diff(level)));
            match (kind, rest) {
                ("block", [block, rest @ ..]) => format!("decoder.up_blocks.{level}.resnets.{block}.{}", of_resnet(rest)),
                _ => format!("decoder.up_blocks.{level}.upsamplers.0.{}", rest.join(".")),
            }
        }
        _ => name.to_owned(),
    }
}

fn of_resnet(rest: &[&str]) -> String {
    rest.join(".").replace("nin_shortcut", "conv_shortcut")
}

/// `name` with the part behind `attention` renamed, if it is one of `pairs`.
fn of_attention(name: &str, attention: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(old, new)| {
        let old = format!("{attention}.{old}.");
        name.contains(&old).then(|| name.replace(&old, &format!("{attention}.{new}.")))
    })
}
