//! CLEVRTex (Karazija et al. 2021): 320 x 240 images, masks with a palette, and a JSON file per image.
//!
//! ```text
//! clevrtex_full/0/CLEVRTEX_full_000000.png             in folders of 1,000; five archives clevrtex_full_part1.tar.gz ...
//! clevrtex_full/0/CLEVRTEX_full_000000_flat.png        the mask: its palette is for people, its indices are the instances
//! clevrtex_full/0/CLEVRTEX_full_000000.json
//! ```
//!
//! The first tenth is the test split, the second tenth is for validation, as in the authors' loader; the variant `outd` is made to be
//! tested on and has no splits.

use super::clevr::{COLOURS, Object, base};
use super::files::{FileImporter, Files, Members};
use super::labels::Label;
use super::picture::{decode_mask, decode_picture};
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Kept, Member, Sample};
use crate::scenes::Split;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;

/// Tables about the objects. Codes of names are those of the official evaluation; other variants have names that are not among them.
const LABELS: &[Label] = &[
    Label::category("color", COLOURS),
    Label::category("material", MATERIALS),
    Label::category("shape", &["cube", "cylinder", "monkey", "sphere"]),
    Label::category("size", &["large", "medium", "small"]),
    Label::figures("x", &[]),
    Label::figures("y", &[]),
    Label::figures("z", &[]),
    Label::figures("pixel_coords", &[3]),
    Label::figures("rotation", &[]),
];

/// The materials of the variant `full`.
#[rustfmt::skip]
const MATERIALS: &[&str] = &[
    "poliigonbricks01", "poliigonbricksflemishred001", "poliigonbrickspaintedwhite001", "poliigoncarpettwistnatural001",
    "poliigonchainmailcopperroundedthin001", "poliigoncitystreetasphaltgenericcracked002", "poliigoncitystreetroadasphalttwolaneworn001",
    "poliigoncliffjagged004", "poliigoncobblestonearches002", "poliigonconcretewall001", "poliigonfabricdenim003",
    "poliigonfabricfleece001", "poliigonfabricleatherbuffalorustic001", "poliigonfabricrope001",
    "poliigonfabricupholsterybrightanglepattern001", "poliigongroundclay002", "poliigongrounddirtforest014", "poliigongrounddirtrocky002",
    "poliigongroundforest003", "poliigongroundforest008", "poliigongroundforestmulch001", "poliigongroundforestroots001",
    "poliigongroundmoss001", "poliigongroundsnowpitted003", "poliigongroundtiretracks001", "poliigoninteriordesignrugstarrynight001",
    "poliigonmarble062", "poliigonmarble13", "poliigonmetalcorrodedheavy001", "poliigonmetalcorrugatedironsheet002",
    "poliigonmetaldesignerweavesteel002", "poliigonmetalpanelrectangular001", "poliigonmetalspottydiscoloration001",
    "poliigonmetalstainlesssteelbrushed", "poliigonplaster07", "poliigonplaster17", "poliigonroadcityworn001",
    "poliigonrooftilesterracotta004", "poliigonrustmixedonpaint012", "poliigonrustplain007",
    "poliigonsolarpanelspolycrystallinetypebframedclean001", "poliigonstonebricksbeige015", "poliigonstonemarblecalacatta004",
    "poliigonterrazzovenetianmattewhite001", "poliigontiles05", "poliigontilesmarblechevroncreamgrey001",
    "poliigontilesmarblesagegreenbrickbondhoned001", "poliigontilesonyxopaloblack001", "poliigontilesrectangularmirrorgray001",
    "poliigonwallmedieval003", "poliigonwaterdropletsmixedbubbled001", "poliigonwoodfinedark004", "poliigonwoodflooring044",
    "poliigonwoodflooring061", "poliigonwoodflooringmahoganyafricansanded001", "poliigonwoodflooringmerbaubrickbondnatural001",
    "poliigonwoodplanks028", "poliigonwoodplanksworn33", "poliigonwoodquarteredchiffon001", "whitemarble",
];

/// The JSON file of one image.
#[derive(Deserialize)]
struct Scene {
    objects: Vec<Object>,
}

/// The data set.
pub(super) struct Clevrtex {
    members: Members,
}

impl Clevrtex {
    /// Finds the images, their masks and their labels.
    pub(super) fn open(source: Source) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let places: HashMap<&str, usize> =
            files.entries().iter().enumerate().map(|(at, entry)| (entry.name.as_str(), at)).collect();
        let mut images: Vec<(u64, &str, usize)> = Vec::new();
        for (at, entry) in files.entries().iter().enumerate() {
            if let Some((variant, number)) = numbered(&entry.name) {
                images.push((number, variant, at));
            }
        }
        images.sort_unstable();
        let Some(&(_, variant, _)) = images.first() else {
            return Err(ImportError::Empty { url: files.url(), expected: "CLEVRTEX_full_000000.png" });
        };
        if let Some(&(_, other, _)) = images.iter().find(|image| image.1 != variant) {
            let name = |variant: &str| format!("the variant {variant}");
            return Err(ImportError::Mixed { url: files.url(), one: name(variant), other: name(other) });
        }
        if let Some(pair) = images.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = |image: usize| files.entries()[pair[image].2].name.clone();
            return Err(ImportError::Mixed { url: files.url(), one: name(0), other: name(1) });
        }
        let mut found = Vec::new();
        for (rank, &(_, _, image)) in images.iter().enumerate() {
            let name = &files.entries()[image].name;
            let companion = |ending: &str| {
                let companion = name.replace(".png", ending);
                let found = places.get(companion.as_str()).copied();
                found.ok_or_else(|| ImportError::Companion { file: files.name_url(image), missing: base(&companion).to_owned() })
            };
            let published = published(variant, rank, images.len());
            let member = Member { name: name.clone(), group: name.clone(), published };
            found.push((member, vec![image, companion("_flat.png")?, companion(".json")?]));
        }
        let (members, _) = Members::arrange(files, found);
        Ok(Self { members })
    }
}

/// Variant and number in the name of an image; none for masks and other files.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (variant, number) = base(name).strip_prefix("CLEVRTEX_")?.strip_suffix(".png")?.rsplit_once('_')?;
    let digits = number.len() == 6 && !variant.contains('_');
    Some((variant, number.parse().ok().filter(|_| digits)?))
}

/// The authors' splits, by the place in the order of numbers.
fn published(variant: &str, rank: usize, count: usize) -> Published {
    match rank {
        _ if variant == "outd" => Published::Unsplit,
        _ if rank < count / 10 => Published::Apart,
        _ if rank < count / 5 => Published::As(Split::Validation),
        _ => Published::As(Split::Train),
    }
}

impl FileImporter for Clevrtex {
    fn members(&self) -> &Members {
        &self.members
    }

    fn contents(&self, _member: usize) -> Contents {
        Contents::of_objects(true, LABELS)
    }

    fn decode(&self, member: usize, bytes: &[Bytes]) -> Result<Sample, ImportError> {
        let [file, mask_file, labels] = [0, 1, 2].map(|file| self.members.file(member, file));
        let refused = |reason: String| ImportError::Labels { file: labels.clone(), reason };
        let picture = decode_picture(&bytes[0], &file)?;
        let mask = decode_mask(&bytes[1], &mask_file, picture.size())?;
        let mut scene: Scene = serde_json::from_slice(&bytes[2]).map_err(|error| refused(error.to_string()))?;
        scene.objects.sort_by_key(|object| object.index);
        let objects = scene.objects.len();
        if !scene.objects.iter().map(|object| object.index).eq((1..=objects).map(Some)) {
            return Err(refused(format!("the indices of its objects are not 1 to {objects}")));
        }
        // The authors publish none; like the official evaluation, the pixels in the mask are counted.
        let mut pixels = [0u32; 256];
        mask.pixels.iter().for_each(|&instance| pixels[usize::from(instance)] += 1);
        let visibility = pixels[1..].iter().take(objects).map(|&count| count as f32).collect();
        let rows = Object::rows(&scene.objects, LABELS);
        Ok(Sample { picture, mask: Some(mask), objects, visibility, rows, file, kept: Kept::default() })
    }
}
