//! `[fid]`: by which network and how many images the `compose` job judges its scenes.

use serde::{Deserialize, Serialize};

use super::Split;

/// `[fid]`: Fréchet Inception Distance and Kernel Inception Distance of composed scenes; absent where nothing is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FidConfig {
    /// URL of a `.safetensors` file with the tensors of `pt_inception-2015-12-05-6726825d.pth`, under their names: the Inception v3 by
    /// which published figures are made. [`CONVERSION`] makes it of the published file. Figures by other weights cannot be compared.
    pub weights: String,
    /// SHA-256 of that file in hexadecimal; absent: any file will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Scenes to compose and judge, and images to reconstruct beside them.
    #[serde(default = "defaults::images")]
    pub images: u64,
    /// Real images that both are compared with, from the first row of the split on; 0 for all.
    #[serde(default)]
    pub real: u64,
    /// The split of the real images.
    #[serde(default = "defaults::split")]
    pub split: Split,
    /// Random subsets over which the kernel distance is averaged.
    #[serde(default = "defaults::subsets")]
    pub subsets: usize,
    /// Images of either side in a subset; all of the smaller side, once, where that has no more.
    #[serde(default = "defaults::subset_size")]
    pub subset_size: usize,
}

/// The command that turns the published weights into what [`FidConfig::weights`] names.
pub const CONVERSION: &str = "python -c 'import sys, torch, safetensors.torch as s; \
                              s.save_file({k: t.contiguous() for k, t in torch.load(sys.argv[1]).items()}, sys.argv[2])' \
                              pt_inception-2015-12-05-6726825d.pth inception.safetensors";

mod defaults {
    use super::Split;

    pub(super) fn images() -> u64 {
        10_000
    }
    pub(super) fn split() -> Split {
        Split::Train
    }
    pub(super) fn subsets() -> usize {
        100
    }
    pub(super) fn subset_size() -> usize {
        1000
    }
}
