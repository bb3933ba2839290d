//! MOVi as the script of the official implementation unpacks it: every frame an image, a mask and a JSON file.
//!
//! ```text
//! movi-e-train-with-label/images/00000000/00000000_image.png      also -validation-with-label; -test-with-label is not read
//! movi-e-train-with-label/labels/00000000/00000000_segment.png
//! movi-e-train-with-label/labels/00000000/00000000_instances.json
//! ```
//!
//! The source is the folder (or tar archive) that holds these, or one of them; then a part of it can be held out.

use super::clevr::base;
use super::files::{FileImporter, Files, Members};
use super::labels::{Kind, Rows};
use super::movi::LABELS;
use super::picture::{decode_mask, decode_picture};
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Kept, Member, Sample};
use crate::scenes::Split;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;

/// How the name of an image ends.
const IMAGE: &str = "_image.png";

/// One frame's slice of the features of a video.
#[derive(Deserialize)]
struct Instances {
    category: Vec<i64>,
    visibility: Vec<f32>,
    scale: Vec<f32>,
    is_dynamic: Option<Vec<bool>>,
    image_positions: Vec<[f32; 2]>,
    positions: Vec<[f32; 3]>,
    quaternions: Vec<[f32; 4]>,
    bboxes_3d: Vec<[[f32; 3]; 8]>,
}

impl Instances {
    /// The rows of all labels; none if they are not as many as objects.
    fn rows(&self) -> Option<Vec<Rows>> {
        let objects = self.category.len();
        let row = |name| match name {
            "category" => Rows::Codes(self.category.clone()),
            "is_dynamic" => Rows::Codes(self.is_dynamic.iter().flatten().map(|moves| i64::from(*moves)).collect()),
            "scale" => Rows::Figures(self.scale.clone()),
            "image_positions" => Rows::Figures(self.image_positions.concat()),
            "positions" => Rows::Figures(self.positions.concat()),
            "quaternions" => Rows::Figures(self.quaternions.concat()),
            _ => Rows::Figures(self.bboxes_3d.iter().flatten().flatten().copied().collect()),
        };
        let fits = |(label, rows): (&super::Label, &Rows)| match rows {
            Rows::Codes(codes) => codes.len() == objects || (label.name == "is_dynamic" && codes.is_empty()),
            Rows::Figures(figures) => figures.len() == objects * label.width() && matches!(label.kind, Kind::Figures(_)),
        };
        let rows: Vec<Rows> = LABELS.iter().map(|label| row(label.name)).collect();
        (LABELS.iter().zip(&rows).all(fits) && self.visibility.len() == objects).then_some(rows)
    }
}

/// The data set.
pub(super) struct MoviDump {
    members: Members,
}

impl MoviDump {
    /// Finds every `stride`-th frame, with its mask and labels.
    pub(super) fn open(source: Source, stride: usize) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let places: HashMap<&str, usize> =
            files.entries().iter().enumerate().map(|(at, entry)| (entry.name.as_str(), at)).collect();
        let mut found = Vec::new();
        for (image, entry) in files.entries().iter().enumerate() {
            let name = entry.name.as_str();
            let path = format!("{}/{name}", files.url());
            let (Some(begin), published) = (name.strip_suffix(IMAGE), published(&path)) else { continue };
            let skipped = base(begin).parse::<usize>().is_ok_and(|frame| frame % stride != 0);
            if published == Published::Apart || skipped {
                continue;
            }
            let labels = match begin.strip_prefix("images/") {
                Some(rest) => format!("labels/{rest}"),
                None => begin.replacen("/images/", "/labels/", 1),
            };
            let companion = |ending: &str| {
                let companion = format!("{labels}{ending}");
                let found = places.get(companion.as_str()).copied();
                found.ok_or_else(|| ImportError::Companion { file: files.name_url(image), missing: companion })
            };
            let video = name.strip_suffix(base(name)).unwrap_or_default();
            let member = Member { name: name.to_owned(), group: video.to_owned(), published };
            found.push((member, vec![image, companion("_segment.png")?, companion("_instances.json")?]));
        }
        if found.is_empty() {
            return Err(ImportError::Empty { url: files.url(), expected: "images/00000000/00000000_image.png" });
        }
        let (members, _) = Members::arrange(files, found);
        Ok(Self { members })
    }
}

/// The split of a frame, which is in the name of a folder.
fn published(path: &str) -> Published {
    let folders = path.split('/').rev();
    let mut splits = folders.filter_map(|folder| folder.strip_suffix("-with-label")?.rsplit_once('-').map(|(_, split)| split));
    match splits.next() {
        Some("train") => Published::As(Split::Train),
        Some("validation") => Published::As(Split::Validation),
        Some(_) => Published::Apart,
        None => Published::Unsplit,
    }
}

impl FileImporter for MoviDump {
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
        let instances: Instances = serde_json::from_slice(&bytes[2]).map_err(|error| refused(error.to_string()))?;
        let rows = instances.rows().ok_or_else(|| refused("its lists are of different lengths".into()))?;
        let objects = instances.category.len();
        let (mask, visibility) = (Some(mask), instances.visibility);
        Ok(Sample { picture, mask, objects, visibility, rows, file, kept: Kept::default() })
    }
}
