//! `[concepts]` and `[compose]`: the library of slots, and the scenes that are composed from it.

use serde::{Deserialize, Serialize};

use super::Split;

/// `[concepts]`: the library of slots, sorted into concepts by K-means (paper, section 4.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConceptsConfig {
    /// Training images whose slots make up the library, the first of the split; 0 for all.
    pub images: u64,
    /// Number of concepts. Absent: as many as a scene has slots, `model.slot_attention.slots`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Starts of K-means, of which the tightest clustering wins.
    pub restarts: usize,
    /// Slots per round of mini-batch K-means, drawn anew for each; for libraries that are too large to be gone through round after round.
    /// 0: every round takes all slots.
    pub batch: u64,
}

impl Default for ConceptsConfig {
    fn default() -> Self {
        Self { images: 1000, count: None, restarts: 4, batch: 0 }
    }
}

/// `[compose]`: scenes for the `compose` job. Without any, `evaluate.pictures` scenes of one slot per concept are drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComposeConfig {
    /// The split whose rows the `image` of a slot numbers.
    pub split: Split,
    /// A TOML file of further scenes, each a table `[[scene]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenes: Option<String>,
    /// The scenes, each a table `[[compose.scene]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scene: Vec<SceneRecipe>,
}

/// One composed scene: the slots that are named, then a random member of each of the concepts. With neither, one of every concept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SceneRecipe {
    /// Name of the file that comes out. Absent: its place in the list, as `02`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Decides which members are drawn and from which noise the picture is painted. Absent: its place in the list, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Concepts from 1, as in the picture of the library; one that is named twice gives two members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concepts: Option<Vec<i64>>,
    /// Slots of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<NamedSlot>>,
}

/// A slot of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSlot {
    /// The image: a row of the split, from 0.
    pub image: u64,
    /// Its slot, from 1.
    pub slot: i64,
}
