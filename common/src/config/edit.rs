//! `[edit]`: what the `edit` job does to which images.

use serde::{Deserialize, Serialize};

use super::Split;

/// `[edit]`: recipes for edited images. Without any recipe the job shows the numbered slots of the first images, to choose from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditConfig {
    /// The split whose rows `image` numbers.
    pub split: Split,
    /// A TOML file of further recipes, each a table `[[recipe]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipes: Option<String>,
    /// The recipes, each a table `[[edit.recipe]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipe: Vec<Recipe>,
}

/// One image and at most one thing to do with it; with none, its slots are shown. Slots are numbered from 1, as in the pictures of
/// `evaluate`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Name of the files that come out. Absent: its place in the list and what it does, as `02-swap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image: a row of the split, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    /// The image: a PNG, JPEG or WebP file of `data.resolution` rows and columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Paint the image without these slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Vec<i64>>,
    /// Put a slot of another image in the place of one of this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<Exchange>,
    /// Exchange a slot with another image; both images come out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Exchange>,
    /// Take over the background of another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// Go from a slot of this image to one of another in steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolate: Option<Interpolation>,
}

/// A slot of this image and one of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Slot of this image.
    pub slot: i64,
    /// The other slot.
    pub with: Donor,
}

/// A slot of an image that is a row of the split or a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Donor {
    /// The image: a row of the split, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    /// The image: a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its slot.
    pub slot: i64,
}

/// Whose background comes in. The background is the slot that wins most pixels, unless it is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Background {
    /// The other image: a row of the split, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    /// The other image: a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The background of the other image. Absent: its largest slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<i64>,
    /// The background of this image, which it replaces. Absent: the largest slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<i64>,
}

/// From one slot to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interpolation {
    /// Slot of this image, with which the first picture is painted.
    pub slot: i64,
    /// The slot of the last picture.
    pub with: Donor,
    /// Number of pictures, both ends included.
    #[serde(default = "defaults::steps")]
    pub steps: usize,
}

mod defaults {
    pub(super) fn steps() -> usize {
        5
    }
}
