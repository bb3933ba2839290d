//! CLEVR v1.0 (Johnson et al. 2017): 480 x 320 images without masks, and the objects of all scenes of a split in one JSON file.
//!
//! ```text
//! CLEVR_v1.0/images/train/CLEVR_train_000000.png       70,000; also val, and test, whose scenes are not published
//! CLEVR_v1.0/scenes/CLEVR_train_scenes.json
//! ```

use super::files::{FileImporter, Files, Members, is_image};
use super::labels::{Kind, Label, Rows};
use super::picture::decode_picture;
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Kept, Member, Sample};
use crate::scenes::Split;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;

/// Tables about the objects.
const LABELS: &[Label] = &[
    Label::category("color", COLOURS),
    Label::category("material", &["metal", "rubber"]),
    Label::category("shape", &["cube", "cylinder", "sphere"]),
    Label::category("size", &["large", "small"]),
    Label::figures("x", &[]),
    Label::figures("y", &[]),
    Label::figures("z", &[]),
    Label::figures("pixel_coords", &[3]),
    Label::figures("rotation", &[]),
];

/// The colours of CLEVR and CLEVRTex.
pub(super) const COLOURS: &[&str] = &["blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"];

/// An object in the JSON of CLEVR and CLEVRTex.
#[derive(Deserialize)]
pub(super) struct Object {
    color: Option<String>,
    material: Option<String>,
    shape: String,
    size: String,
    #[serde(rename = "3d_coords")]
    position: [f32; 3],
    pixel_coords: [f32; 3],
    rotation: f32,
    /// Its instance in the mask; only in CLEVRTex.
    pub(super) index: Option<usize>,
}

impl Object {
    /// The rows of all labels.
    pub(super) fn rows(objects: &[Self], labels: &[Label]) -> Vec<Rows> {
        labels.iter().map(|label| Self::rows_of(objects, label)).collect()
    }

    fn rows_of(objects: &[Self], label: &Label) -> Rows {
        let figures = |of: fn(&Self) -> &[f32]| Rows::Figures(objects.iter().flat_map(of).copied().collect());
        let names = |of: fn(&Self) -> Option<&str>| match label.kind {
            Kind::Category(names) => Rows::named(names, objects.iter().map(of)),
            Kind::Figures(_) => Rows::Codes(Vec::new()),
        };
        match label.name {
            "color" => names(|object| object.color.as_deref()),
            "material" => names(|object| object.material.as_deref()),
            "shape" => names(|object| Some(&object.shape)),
            "size" => names(|object| Some(&object.size)),
            "x" => figures(|object| &object.position[..1]),
            "y" => figures(|object| &object.position[1..2]),
            "z" => figures(|object| &object.position[2..]),
            "pixel_coords" => figures(|object| &object.pixel_coords),
            _ => figures(|object| std::slice::from_ref(&object.rotation)),
        }
    }
}

/// `CLEVR_train_scenes.json`, of which the questions' relationships are not read.
#[derive(Deserialize)]
struct Scenes {
    scenes: Vec<Scene>,
}

#[derive(Deserialize)]
struct Scene {
    image_filename: String,
    objects: Vec<Object>,
}

/// The objects of one image.
struct Described {
    objects: usize,
    rows: Vec<Rows>,
}

/// The data set.
pub(super) struct Clevr {
    members: Members,
    scenes: Vec<Described>,
}

impl Clevr {
    /// Finds the images and reads the scenes of both splits.
    pub(super) fn open(source: Source) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let (mut found, mut scenes) = (Vec::new(), Vec::new());
        for (word, split) in [("train", Split::Train), ("val", Split::Validation)] {
            let begin = format!("CLEVR_{word}_");
            let of_split = |name: &str| is_image(name) && base(name).starts_with(&begin);
            let images: Vec<usize> = (0..files.entries().len()).filter(|&entry| of_split(&files.entries()[entry].name)).collect();
            if images.is_empty() {
                continue;
            }
            let mut described = read_scenes(&files, word, images[0])?;
            for entry in images {
                let name = &files.entries()[entry].name;
                let scene = described.remove(base(name)).ok_or_else(|| ImportError::Companion {
                    file: files.name_url(entry),
                    missing: format!("its scene in CLEVR_{word}_scenes.json"),
                })?;
                found.push((Member { name: name.clone(), group: name.clone(), published: Published::As(split) }, vec![entry]));
                scenes.push(Some(scene));
            }
        }
        if found.is_empty() {
            return Err(ImportError::Empty { url: files.url(), expected: "images/train/CLEVR_train_000000.png" });
        }
        let (members, order) = Members::arrange(files, found);
        let scenes = order.iter().filter_map(|&at| scenes[at].take()).collect();
        Ok(Self { members, scenes })
    }
}

/// The scenes of one split by the names of their images; `image` is one of them.
fn read_scenes(files: &Files, word: &str, image: usize) -> Result<HashMap<String, Described>, ImportError> {
    let name = format!("CLEVR_{word}_scenes.json");
    let entry = files.entries().iter().position(|entry| base(&entry.name) == name);
    let entry = entry.ok_or_else(|| ImportError::Companion { file: files.name_url(image), missing: name })?;
    let scenes: Scenes = serde_json::from_slice(&files.read(entry)?)
        .map_err(|error| ImportError::Labels { file: files.name_url(entry), reason: error.to_string() })?;
    let describe = |scene: Scene| {
        let described = Described { objects: scene.objects.len(), rows: Object::rows(&scene.objects, LABELS) };
        (scene.image_filename, described)
    };
    Ok(scenes.scenes.into_iter().map(describe).collect())
}

/// The last part of a name.
pub(super) fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

impl FileImporter for Clevr {
    fn members(&self) -> &Members {
        &self.members
    }

    fn contents(&self, _member: usize) -> Contents {
        Contents::of_objects(false, LABELS)
    }

    fn decode(&self, member: usize, bytes: &[Bytes]) -> Result<Sample, ImportError> {
        let file = self.members.file(member, 0);
        let picture = decode_picture(&bytes[0], &file)?;
        let Described { objects, rows } = &self.scenes[member];
        Ok(Sample {
            file,
            picture,
            mask: None,
            objects: *objects,
            visibility: Vec::new(),
            rows: rows.clone(),
            kept: Kept::default(),
        })
    }
}
