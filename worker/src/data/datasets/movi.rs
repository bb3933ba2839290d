//! MOVi-C, -D and -E (Greff et al. 2022) as TensorFlow Datasets stores them: videos of 24 frames, each a record.
//!
//! ```text
//! movi_e/256x256/1.0.0/movi_e-train.tfrecord-00000-of-01024       also -validation; -test is of another distribution and not read
//! ```
//!
//! | feature | holds |
//! |---|---|
//! | `video`, `segmentations` | a PNG per frame: RGB, and instances with 0 for the background |
//! | `instances/category`, `scale`, `is_dynamic` | a figure per instance |
//! | `instances/visibility` | visible pixels: instances x frames |
//! | `instances/image_positions`, `positions`, `quaternions`, `bboxes_3d` | instances x frames x 2, 3, 4, 8 x 3 |
//!
//! Depth, flow, normals and object coordinates, nine tenths of a record, are passed over.

use super::example::Example;
use super::labels::{Kind, Label, Rows};
use super::picture::{decode_mask, decode_picture};
use super::source::{PieceReader, Source};
use super::split::Published;
use super::tfrecord::{self, Place};
use super::{Contents, ImportError, Importer, Kept, Member, Sample};
use crate::scenes::Split;
use bytes::Bytes;
use common::storage::Entry;
use rayon::prelude::*;

/// Tables about the objects; `is_dynamic` only in MOVi-D and -E.
pub(super) const LABELS: &[Label] = &[
    Label::category("category", CATEGORIES),
    Label::category("is_dynamic", &["static", "dynamic"]),
    Label::figures("scale", &[]),
    Label::figures("image_positions", &[2]),
    Label::figures("positions", &[3]),
    Label::figures("quaternions", &[4]),
    Label::figures("bboxes_3d", &[8, 3]),
];

/// The categories of Google's scanned objects, in the order of their codes.
#[rustfmt::skip]
const CATEGORIES: &[&str] = &[
    "Action Figures", "Bag", "Board Games", "Bottles and Cans and Cups", "Camera", "Car Seat", "Consumer Goods", "Hat", "Headphones",
    "Keyboard", "Legos", "Media Cases", "Mouse", "None", "Shoe", "Stuffed Toys", "Toys",
];

/// The data set.
pub(super) struct Movi {
    url: String,
    readers: Vec<PieceReader>,
    members: Vec<Member>,
    /// File and place of each member.
    places: Vec<(usize, Place)>,
    frames: usize,
}

/// What the name of a file says: `movi_e-train.tfrecord-00000-of-01024`.
struct Name<'n> {
    /// Everything before the split, with the folder.
    dataset: &'n str,
    split: &'n str,
    /// The number of files.
    files: usize,
}

impl<'n> Name<'n> {
    fn parse(name: &'n str) -> Option<Self> {
        let (begin, number) = name.split_once(".tfrecord-")?;
        let (dataset, split) = begin.rsplit_once('-')?;
        let (_, files) = number.split_once("-of-")?;
        Some(Self { dataset, split, files: files.parse().ok()? })
    }
}

impl Movi {
    /// Finds the records of the training and validation split. Reads one of them, for the number of frames.
    pub(super) fn open(source: &Source) -> Result<Self, ImportError> {
        let entries = source.list()?;
        let (mut found, mut dataset) = (Vec::new(), None);
        for (word, split) in [("train", Split::Train), ("validation", Split::Validation)] {
            let files: Vec<(&Entry, Name<'_>)> = entries
                .iter()
                .filter_map(|entry| Some((entry, Name::parse(&entry.name)?)))
                .filter(|(_, name)| name.split == word)
                .collect();
            for (_, name) in &files {
                let known = *dataset.get_or_insert(name.dataset);
                if known != name.dataset {
                    return Err(ImportError::Mixed { url: source.url(), one: known.to_owned(), other: name.dataset.to_owned() });
                }
            }
            if let Some((_, name)) = files.first().filter(|(_, name)| name.files != files.len()) {
                tracing::warn!(
                    "{}: {} of {} files of the {word} split are there; only those are imported",
                    source.url(),
                    files.len(),
                    name.files
                );
            }
            found.extend(files.into_iter().map(|(entry, _)| (entry, split)));
        }
        if found.is_empty() {
            return Err(ImportError::Empty { url: source.url(), expected: "movi_e-train.tfrecord-00000-of-01024" });
        }
        let readers: Vec<PieceReader> = found.iter().map(|(entry, _)| source.reader(entry)).collect::<Result<_, _>>()?;
        let indices: Vec<Vec<Place>> = readers.par_iter().map(tfrecord::index).collect::<Result<_, _>>()?;
        let (mut members, mut places) = (Vec::new(), Vec::new());
        for (file, ((entry, split), index)) in found.iter().zip(indices).enumerate() {
            for (record, place) in index.into_iter().enumerate() {
                let name = format!("{}: record {record}", entry.name);
                members.push(Member { group: name.clone(), name, published: Published::As(*split) });
                places.push((file, place));
            }
        }
        let mut movi = Self { url: source.url(), readers, members, places, frames: 1 };
        if !movi.members.is_empty() {
            let (file, first) = (movi.file_of(0), movi.fetch(&[0])?);
            movi.frames = Example::parse(&first[0][0], &file)?.strings("video")?.len().max(1);
        }
        Ok(movi)
    }

    fn file_of(&self, member: usize) -> String {
        let record = self.members[member].name.rsplit(':').next().unwrap_or_default();
        format!("{}:{record}", self.readers[self.places[member].0].file())
    }
}

impl Importer for Movi {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn contents(&self, _member: usize) -> Contents {
        Contents::of_objects(true, LABELS)
    }

    fn members(&self) -> &[Member] {
        &self.members
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn fetch(&self, members: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        let record = |&member: &usize| {
            let (file, place) = self.places[member];
            Ok(vec![tfrecord::read(&self.readers[file], place)?])
        };
        members.par_iter().map(record).collect()
    }

    fn decode(&self, member: usize, bytes: &[Bytes], frame: usize) -> Result<Sample, ImportError> {
        let (record, file) = (self.file_of(member), format!("{}, frame {frame}", self.file_of(member)));
        let refused = |reason: String| ImportError::Labels { file: record.clone(), reason };
        let example = Example::parse(&bytes[0], &record)?;
        let [video, segmentations] = [example.strings("video")?, example.strings("segmentations")?];
        if video.len() != self.frames || segmentations.len() != self.frames {
            let (images, masks) = (video.len(), segmentations.len());
            return Err(refused(format!("{images} frames and {masks} masks, where other records have {}", self.frames)));
        }
        let objects = example.integers("instances/category")?.len();
        let visibility = example.integers("instances/visibility")?;
        if visibility.len() != objects * self.frames {
            return Err(refused(format!("feature instances/visibility has {} values for {objects} objects", visibility.len())));
        }
        let visibility = (0..objects).map(|object| visibility[object * self.frames + frame] as f32).collect();
        let rows = LABELS.iter().map(|label| rows_of(label, &example, objects, (frame, self.frames))).collect::<Result<_, _>>()?;
        let picture = decode_picture(&video[frame], &file)?;
        let mask = Some(decode_mask(&segmentations[frame], &file, picture.size())?);
        Ok(Sample { picture, mask, objects, visibility, rows, file, kept: Kept::default() })
    }
}

/// One frame's rows of a label. Features of `scale` and of the categories have no frames.
fn rows_of(label: &Label, example: &Example<'_>, objects: usize, (frame, frames): (usize, usize)) -> Result<Rows, ImportError> {
    let name = format!("instances/{}", label.name);
    match label.kind {
        Kind::Category(_) if example.has(&name) => example.sized(&name, example.integers(&name)?, objects).map(Rows::Codes),
        Kind::Category(_) => Ok(Rows::Codes(Vec::new())),
        Kind::Figures([]) => example.sized(&name, example.floats(&name)?, objects).map(Rows::Figures),
        Kind::Figures(_) => {
            let width = label.width();
            let figures = example.sized(&name, example.floats(&name)?, objects * frames * width)?;
            let of_frame = |object: usize| &figures[(object * frames + frame) * width..][..width];
            Ok(Rows::Figures((0..objects).flat_map(of_frame).copied().collect()))
        }
    }
}
