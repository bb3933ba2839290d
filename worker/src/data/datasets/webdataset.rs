//! WebDataset: tar files of samples, the files of a sample one after the other under one key, which ends at the first dot.
//!
//! ```text
//! train/00000.tar: KEY.jpg  KEY.mask.png  KEY.json          also .png, .webp, .image.jpg, .image.npy; .seg.png, .mask.npy
//! train-0000.tar.gz: __dataset__  KEY.image.jpg  KEY.moments.npy  KEY.cls
//! ```
//!
//! Arrays, classes and the numbers of a JSON file become columns: those that the first sample of a split has, and all others must have.
//! Splits are words in the names of archives and folders; without any, a share is held out.

use super::files::{FileImporter, Files, IMAGES, Members};
use super::npy::Array;
use super::origin::origin;
use super::picture::{Mask, Picture, Raster, decode_mask, decode_picture};
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Kept, Member, Sample};
use crate::data::{MOMENTS, MOMENTS_FLIPPED};
use bytes::Bytes;
use common::shards::{Column, DType};
use serde_json::{Map, Value};

/// How the names of masks end.
const MASKS: [&str; 3] = ["mask.png", "seg.png", "mask.npy"];

/// The data set.
pub(super) struct WebDataset {
    members: Members,
    outfits: Vec<Outfit>,
    /// The outfit of each member.
    outfit_of: Vec<usize>,
    origin: Map<String, Value>,
}

/// What samples have beside their image.
struct Outfit {
    /// How the name of the first mask ends.
    mask: Option<String>,
    /// Endings of the further files.
    endings: Vec<String>,
    columns: Vec<Further>,
}

/// A column that is stored as it comes.
struct Further {
    column: Column,
    /// Which of the endings it is in.
    file: usize,
    /// What of a JSON file; all of any other.
    field: Option<String>,
}

/// Key and ending of every file.
type Parts<'f> = [(&'f str, &'f str)];

impl WebDataset {
    /// Finds the samples, and reads what the first one of each published split has beside image and mask: only samples to train on come
    /// with the moments of the mirrored image.
    pub(super) fn open(source: Source) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let parts: Vec<(&str, &str)> = files.entries().iter().map(|entry| key_and_ending(&entry.name)).collect();
        let entries: Vec<usize> = (0..parts.len()).collect();
        let of_one = |&a: &usize, &b: &usize| parts[a].0 == parts[b].0 && files.archive(a) == files.archive(b);
        let samples = entries.chunk_by(of_one).filter_map(|sample| {
            let image = sample.iter().copied().find(|&at| is_picture(parts[at].1))?;
            let name = format!("{}/{}", files.archive(image), parts[image].0);
            let published = name.split(|c: char| !c.is_ascii_alphanumeric()).find_map(Published::by_word);
            let published = published.unwrap_or(Published::Unsplit);
            Some((Member { group: name.clone(), name, published }, image, sample)).filter(|_| published != Published::Apart)
        });
        let samples: Vec<_> = samples.collect();
        if samples.is_empty() {
            return Err(ImportError::Empty { url: files.url(), expected: "KEY.jpg, KEY.png, KEY.webp or KEY.image.npy" });
        }
        // Samples of no split may come into either one.
        let split = samples.iter().all(|(member, ..)| member.published != Published::Unsplit);
        let (mut outfits, mut kinds): (Vec<Outfit>, Vec<Option<Published>>) = Default::default();
        let (mut found, mut which) = (Vec::with_capacity(samples.len()), Vec::with_capacity(samples.len()));
        for (member, image, sample) in samples {
            let kind = Some(member.published).filter(|_| split);
            let place = kinds.iter().position(|known| *known == kind).unwrap_or(kinds.len());
            if place == kinds.len() {
                kinds.push(kind);
                outfits.push(Outfit::of(&files, &parts, sample)?);
            }
            found.push((member, outfits[place].files(&files, &parts, image, sample)?));
            which.push(place);
        }
        let origin = origin(&files)?;
        let (members, order) = Members::arrange(files, found);
        let outfit_of = order.into_iter().map(|at| which[at]).collect();
        Ok(Self { members, outfits, outfit_of, origin })
    }

    fn outfit(&self, member: usize) -> &Outfit {
        &self.outfits[self.outfit_of[member]]
    }

    fn mask(&self, member: usize, bytes: &Bytes, picture: &Picture) -> Result<Mask, ImportError> {
        let file = self.members.file(member, 1);
        match pixels::<2>(bytes, &file)? {
            Some(([height, width], pixels)) => Raster::new(width, height, pixels)
                .filter(|mask| mask.size() == picture.size())
                .ok_or_else(|| ImportError::MaskSize { file, found: (width, height), expected: picture.size() }),
            None => decode_mask(bytes, &file, picture.size()),
        }
    }

    /// The rows of the further columns.
    fn arrays(&self, member: usize, bytes: &[Bytes]) -> Result<Vec<Bytes>, ImportError> {
        let outfit = self.outfit(member);
        let before = 1 + usize::from(outfit.mask.is_some());
        let row = |further: &Further| {
            let (file, bytes) = (self.members.file(member, before + further.file), &bytes[before + further.file]);
            let refused = |reason| ImportError::Labels { file: file.clone(), reason };
            let (column, row) = row(&outfit.endings[further.file], further.field.as_deref(), bytes).map_err(refused)?;
            let expected = &further.column;
            if (column.dtype, &column.shape) != (expected.dtype, &expected.shape) {
                let of = |column: &Column| format!("{:?} {:?}", column.dtype, column.shape).to_lowercase();
                let reason = format!("{} is {}, but {} in the first sample", column.name, of(&column), of(expected));
                return Err(refused(reason));
            }
            Ok(row)
        };
        outfit.columns.iter().map(row).collect()
    }
}

impl Outfit {
    /// What one sample has.
    fn of(files: &Files, parts: &Parts<'_>, sample: &[usize]) -> Result<Self, ImportError> {
        let mask = sample.iter().map(|&at| parts[at].1).find(|ending| MASKS.contains(ending)).map(str::to_owned);
        let is_further = |ending: &str| {
            let array = ending.ends_with(".npy") && ending != "image.npy" && ending != "mask.npy";
            array || ending == "cls" || ending == "json"
        };
        let further: Vec<usize> = sample.iter().copied().filter(|&at| is_further(parts[at].1)).collect();
        let endings: Vec<String> = further.iter().map(|&at| parts[at].1.to_owned()).collect();
        Ok(Self { mask, columns: columns(files, &further, &endings)?, endings })
    }

    /// The files that are read of a sample: its image, its mask if there are masks, and the further ones.
    fn files(&self, files: &Files, parts: &Parts<'_>, image: usize, sample: &[usize]) -> Result<Vec<usize>, ImportError> {
        let ending = |wanted: &[&str], missing: &str| {
            let there = sample.iter().copied().find(|&at| wanted.contains(&parts[at].1));
            let missing = || format!("{}.{missing}", parts[image].0);
            there.ok_or_else(|| ImportError::Companion { file: files.name_url(image), missing: missing() })
        };
        let mut own = vec![image];
        if let Some(mask) = &self.mask {
            own.push(ending(&MASKS, mask)?);
        }
        for further in &self.endings {
            own.push(ending(&[further.as_str()], further)?);
        }
        Ok(own)
    }
}

/// The columns that the files `further` of the first sample make, each where it is found first.
fn columns(files: &Files, further: &[usize], endings: &[String]) -> Result<Vec<Further>, ImportError> {
    let mut columns: Vec<Further> = Vec::new();
    for (file, (&entry, ending)) in further.iter().zip(endings).enumerate() {
        let bytes = files.read(entry)?;
        let refused = |reason| ImportError::Labels { file: files.name_url(entry), reason };
        let fields = if ending == "json" { numbers(&bytes).map_err(refused)? } else { vec![None] };
        for field in fields {
            let (column, _) = row(ending, field.as_deref(), &bytes).map_err(refused)?;
            let taken = columns.iter().any(|other| other.column.name == column.name);
            if !taken && !["image", "mask"].contains(&column.name.as_str()) {
                columns.push(Further { column, file, field });
            }
        }
    }
    columns.sort_by(|a, b| (a.column.cold, &a.column.name).cmp(&(b.column.cold, &b.column.name)));
    Ok(columns)
}

/// Names of the numbers in a JSON file.
fn numbers(bytes: &[u8]) -> Result<Vec<Option<String>>, String> {
    match serde_json::from_slice(bytes).map_err(|error| error.to_string())? {
        Value::Object(fields) => {
            Ok(fields.into_iter().filter(|(_, value)| value.is_number()).map(|(name, _)| Some(name)).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Column and row of a file that ends so, or of one number in it.
fn row(ending: &str, field: Option<&str>, bytes: &Bytes) -> Result<(Column, Bytes), String> {
    let integer = |name: &str, value: i64| (Column::cold(name, DType::I64, &[]), Bytes::from(value.to_le_bytes().to_vec()));
    if let Some(field) = field {
        let object: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        return match (object[field].as_i64(), object[field].as_f64()) {
            (Some(value), _) => Ok(integer(field, value)),
            (None, Some(value)) => Ok((Column::cold(field, DType::F32, &[]), Bytes::from((value as f32).to_le_bytes().to_vec()))),
            (None, None) => Err(format!("{field} is no number, as it is in the first sample")),
        };
    }
    if ending == "cls" {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        return Ok(integer("label", text.parse().map_err(|_| format!("{text:?} is no class"))?));
    }
    let array = Array::parse(bytes)?;
    let name = ending.trim_end_matches(".npy");
    let cold = name != MOMENTS && name != MOMENTS_FLIPPED;
    // As the encode job stores them.
    let (dtype, data) = match array.dtype {
        DType::F32 if !cold => (DType::F16, halved(array.data)),
        dtype => (dtype, bytes.slice_ref(array.data)),
    };
    Ok((Column { cold, ..Column::hot(name, dtype, &array.shape) }, data))
}

/// Little-endian f32 as f16.
fn halved(floats: &[u8]) -> Bytes {
    let halves = floats.as_chunks().0.iter().map(|float| half::f16::from_f32(f32::from_le_bytes(*float)));
    halves.flat_map(half::f16::to_le_bytes).collect()
}

/// Key of the sample, with its folder, and what follows its first dot.
fn key_and_ending(name: &str) -> (&str, &str) {
    let folder = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[folder..].find('.') {
        Some(dot) => (&name[..folder + dot], &name[folder + dot + 1..]),
        None => (name, ""),
    }
}

/// Whether a file that ends so is the image of its sample.
fn is_picture(ending: &str) -> bool {
    let kind = ending.strip_prefix("image.").unwrap_or(ending);
    ending == "image.npy" || IMAGES.iter().any(|image| image[1..].eq_ignore_ascii_case(kind))
}

impl FileImporter for WebDataset {
    fn members(&self) -> &Members {
        &self.members
    }

    fn contents(&self, member: usize) -> Contents {
        let outfit = self.outfit(member);
        let arrays = outfit.columns.iter().map(|further| further.column.clone()).collect();
        Contents { masks: outfit.mask.is_some(), visibility: false, labels: &[], arrays, origin: self.origin.clone() }
    }

    fn decode(&self, member: usize, bytes: &[Bytes]) -> Result<Sample, ImportError> {
        let file = self.members.file(member, 0);
        let refused = |file: &str, shape: &[usize]| ImportError::Picture {
            file: file.to_owned(),
            reason: format!("an array of shape {shape:?} holds no such image"),
        };
        let picture = match pixels::<3>(&bytes[0], &file)? {
            Some(([height, width, 3], pixels)) => {
                Raster::new(width, height, pixels).ok_or_else(|| refused(&file, &[height, width]))?
            }
            Some((shape, _)) => return Err(refused(&file, &shape)),
            None => decode_picture(&bytes[0], &file)?,
        };
        let masks = self.outfit(member).mask.is_some();
        let mask = if masks { Some(self.mask(member, &bytes[1], &picture)?) } else { None };
        let files = [Some(bytes[0].clone()), masks.then(|| bytes[1].clone())];
        let kept = Kept { files, arrays: self.arrays(member, bytes)? };
        Ok(Sample { file, picture, mask, objects: 0, visibility: Vec::new(), rows: Vec::new(), kept })
    }
}

/// Sides and elements of an array of bytes.
type Pixels<const SIDES: usize> = ([usize; SIDES], Vec<u8>);

/// Sides and elements of a file that is an array of bytes; none if it is no array.
fn pixels<const SIDES: usize>(bytes: &Bytes, file: &str) -> Result<Option<Pixels<SIDES>>, ImportError> {
    if !Array::is_one(bytes) {
        return Ok(None);
    }
    let refused = |reason| ImportError::Picture { file: file.to_owned(), reason };
    let array = Array::parse(bytes).map_err(refused)?;
    match <[usize; SIDES]>::try_from(&array.shape[..]) {
        Ok(sides) if array.dtype == DType::U8 => Ok(Some((sides, array.data.to_vec()))),
        _ => Err(refused(format!("an array of {:?} {:?} holds no such image", array.dtype, array.shape))),
    }
}
