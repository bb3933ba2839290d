//! The library of slots in a run's folder: `library.safetensors` with the slots and their concepts, `library.json` with what they were made
//! from. Slot k of image i, counted from 0, is member i * K + k.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `image`, `slot` | i64 [N] | where each slot was found: row of the training split, and slot, both from 0 |
//! | `concept` | i64 [N] | the concept of each slot, from 0; the largest concept is the first |
//! | `centres` | f32 [C, D] | the concepts' centres |
//! | `distance` | f32 [N] | squared distance of each slot from its centre |
//! | `slots` | f32 [N, D] | the slots |
//! | `conditioning` | f32 [N, out] | the slots as the denoiser sees them |

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::run_dir::replace_file;
use rand::{Rng, RngExt};
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};

use super::{ConceptsError, RowFile, Rows};
use tch::Tensor;

/// Name of the file of tensors.
pub(super) const TENSORS: &str = "library.safetensors";
/// Name of the description.
const INFO: &str = "library.json";
/// Key of the file's metadata under which is what it was made from.
pub(super) const MADE_FROM: &str = "made_from";
/// Longest header of a file of tensors.
const LONGEST_HEADER: u64 = 1 << 20;

/// What a library is made from. The same again makes the same library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFrom {
    /// Step of the checkpoint.
    pub step: u64,
    /// Hash of the configuration that the checkpoint was trained with.
    pub config_hash: String,
    /// BLAKE3 of the weights of backbone and Slot Attention.
    pub weights: String,
    /// Where the images are.
    pub data: String,
    /// Fingerprint of that split.
    pub fingerprint: String,
    /// Number of images, the first of the split.
    pub images: u64,
    /// Slots of each.
    pub slots_per_image: u64,
    /// Number of concepts.
    pub concepts: usize,
    /// `concepts.restarts`.
    pub restarts: usize,
    /// `concepts.batch`.
    pub batch: u64,
    /// `run.seed`.
    pub seed: u64,
}

/// What is said of a library beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LibraryInfo {
    /// What it is made from.
    pub made_from: MadeFrom,
    /// Number of slots.
    pub slots: u64,
    /// Slots of each concept.
    pub sizes: Vec<u64>,
    /// Sum of the squared distances of all slots from the centres of their concepts.
    pub inertia: f64,
    /// The same after each round of K-means.
    pub inertias: Vec<f64>,
    /// Picture of members of each concept.
    pub picture: String,
}

impl LibraryInfo {
    /// Writes `library.json` into `folder`: from then on there is a library.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), ConceptsError> {
        let path = folder.join(INFO);
        let text = serde_json::to_string_pretty(self).map_err(|error| ConceptsError::format(&path, error))?;
        replace_file(&path, format!("{text}\n").as_bytes(), 0o644).map_err(|source| ConceptsError::io(&path, source))
    }
}

/// A slot of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub index: u64,
    /// Row of the training split.
    pub image: u64,
    /// Slot of that image, from 0.
    pub slot: usize,
}

/// An open library. In memory are 12 bytes per slot; what the denoiser sees is read from the file.
#[derive(Debug)]
pub struct Library {
    /// What is said of it.
    pub info: LibraryInfo,
    /// Numbers of the members of each concept, in order.
    members: Vec<Vec<u64>>,
    /// Squared distances from the centres.
    distances: Vec<f32>,
    conditioning: RowFile,
}

impl Library {
    /// The library in `folder`, if there is one and it is whole; says in the log what is wrong with one that is not.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Self>, ConceptsError> {
        let path = folder.join(INFO);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ConceptsError::io(&path, error)),
        };
        let info = serde_json::from_slice(&text).map_err(|error| ConceptsError::format(&path, error));
        match info.and_then(|info| Self::of(info, folder)) {
            Ok(library) => Ok(Some(library)),
            Err(error @ ConceptsError::Format { .. }) => {
                tracing::warn!("there is no whole library: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The library whose tensors lie in `folder`, and of which `info` is to be said.
    ///
    /// # Errors
    /// A file of tensors that is not there, is not whole or is another library's.
    pub fn of(info: LibraryInfo, folder: &Path) -> Result<Self, ConceptsError> {
        let path = &folder.join(TENSORS);
        let (header, start) = header(path)?;
        let wrong = |reason: &str| ConceptsError::format(path, reason);
        let made_from = header.metadata().as_ref().and_then(|metadata| metadata.get(MADE_FROM).cloned());
        if made_from != Some(described(&info.made_from)) {
            return Err(wrong("it is not the file that library.json describes"));
        }
        let file = File::open(path).map_err(|source| ConceptsError::io(path, source))?;
        let place = |name: &str| header.info(name).ok_or_else(|| wrong(&format!("it has no tensor {name}")));
        let read = |name: &str| -> Result<Vec<u8>, ConceptsError> {
            let (begin, end) = place(name)?.data_offsets;
            let mut bytes = vec![0; end - begin];
            let read = file.read_exact_at(&mut bytes, start + begin as u64);
            read.map_err(|_| wrong("it is shorter than its header says"))?;
            Ok(bytes)
        };
        let mut members = vec![Vec::new(); info.made_from.concepts];
        for (index, bytes) in (0..).zip(read("concept")?.as_chunks().0) {
            let concept = usize::try_from(i64::from_le_bytes(*bytes)).ok();
            let there = concept.and_then(|concept| members.get_mut(concept));
            there.ok_or_else(|| wrong("it has slots of concepts that do not exist"))?.push(index);
        }
        let distances = read("distance")?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let conditioning = place("conditioning")?;
        let whole = file.metadata().map_err(|source| ConceptsError::io(path, source))?.len();
        if whole != start + conditioning.data_offsets.1 as u64 {
            return Err(wrong("it is not as long as its header says"));
        }
        let width = conditioning.shape.get(1).copied().unwrap_or_default();
        let conditioning = RowFile::open(path, start + conditioning.data_offsets.0 as u64, width, info.slots)?;
        Ok(Self { info, members, distances, conditioning })
    }

    /// The slot with this number.
    pub fn member(&self, index: u64) -> Member {
        let slots = self.info.made_from.slots_per_image.max(1);
        Member { index, image: index / slots, slot: (index % slots) as usize }
    }

    /// The members of a concept, nearest to its centre first.
    pub fn members(&self, concept: usize) -> Vec<Member> {
        let mut indices = self.indices(concept).to_vec();
        indices.sort_by(|&a, &b| self.distances[a as usize].total_cmp(&self.distances[b as usize]));
        indices.into_iter().map(|index| self.member(index)).collect()
    }

    /// A random member of a concept, all being equally likely.
    pub fn draw(&self, concept: usize, random: &mut impl Rng) -> Option<Member> {
        let indices = self.indices(concept);
        (!indices.is_empty()).then(|| self.member(indices[random.random_range(0..indices.len())]))
    }

    /// The members as the denoiser sees them, f32 [n, out] on the CPU.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn conditioning(&self, members: &[Member]) -> Result<Tensor, ConceptsError> {
        self.conditioning.read(&members.iter().map(|member| member.index).collect::<Vec<_>>())
    }

    /// Numbers of the members of a concept, in order.
    fn indices(&self, concept: usize) -> &[u64] {
        self.members.get(concept).map_or(&[], Vec::as_slice)
    }
}

/// What a library is made from, in a few letters.
pub(super) fn described(made_from: &MadeFrom) -> String {
    blake3::hash(format!("{made_from:?}").as_bytes()).to_hex().to_string()
}

/// The header of a file of tensors, and where the tensors begin.
fn header(path: &Path) -> Result<(Metadata, u64), ConceptsError> {
    let wrong = |_| ConceptsError::format(path, "it is no safetensors file");
    let file = File::open(path).map_err(|source| ConceptsError::io(path, source))?;
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(wrong)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(ConceptsError::format(path, "it is no safetensors file"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, 8).map_err(wrong)?;
    let metadata = serde_json::from_slice(&header).map_err(|error| ConceptsError::format(path, error))?;
    Ok((metadata, 8 + length))
}
