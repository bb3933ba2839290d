//! Making a library: every worker writes what it finds into files of its own, which rank 0 puts together.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Tensor;

use super::k_means::Clusters;
use super::library::{MADE_FROM, TENSORS, described};
use super::{ConceptsError, LibraryInfo, RowFile, Rows, rows};
use crate::model::SlotOutput;

/// Folder of the workers' parts, within that of the library.
const PARTS: &str = "parts";

/// Takes away what an earlier attempt has left, and makes room for parts.
///
/// # Errors
/// The folder cannot be written.
pub fn clear_parts(folder: &Path) -> Result<(), ConceptsError> {
    let parts = folder.join(PARTS);
    match fs::remove_dir_all(&parts) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ConceptsError::io(&parts, error)),
        _ => {}
    }
    fs::create_dir_all(&parts).map_err(|source| ConceptsError::io(&parts, source))
}

/// The slots that one worker has found, on the way into the library.
#[derive(Debug)]
pub struct LibraryWriter {
    folder: PathBuf,
    rank: usize,
    slots: RowFile,
    conditioning: RowFile,
}

impl LibraryWriter {
    /// For slots of `slot_size` numbers, of which the denoiser sees `out_size`; [`clear_parts`] has been called.
    ///
    /// # Errors
    /// The files cannot be created.
    pub fn create(folder: &Path, rank: usize, slot_size: usize, out_size: usize) -> Result<Self, ConceptsError> {
        let slots = RowFile::create(&part(folder, "slots", rank), slot_size)?;
        let conditioning = RowFile::create(&part(folder, "conditioning", rank), out_size)?;
        Ok(Self { folder: folder.to_owned(), rank, slots, conditioning })
    }

    /// Adds the slots of some images.
    ///
    /// # Errors
    /// Slots that are no numbers; a disk that is full or does not write.
    pub fn append(&mut self, found: &SlotOutput) -> Result<(), ConceptsError> {
        let slots = found.slots.flatten(0, 1);
        if slots.isfinite().all().int64_value(&[]) == 0 {
            return Err(ConceptsError::NotFinite);
        }
        self.slots.append(&slots)?;
        self.conditioning.append(&found.conditioning.flatten(0, 1))
    }

    /// The slots so far.
    pub fn slots(&self) -> &RowFile {
        &self.slots
    }

    /// Writes where each of the slots belongs. With that the part is complete.
    ///
    /// # Errors
    /// A disk that is full or does not write.
    pub fn finish(&self, clusters: &Clusters) -> Result<(), ConceptsError> {
        let write = |name: &str, values: Tensor| {
            let path = part(&self.folder, name, self.rank);
            fs::write(&path, rows::bytes(&values)?).map_err(|source| ConceptsError::io(&path, source))
        };
        let concepts: Vec<i64> = clusters.nearest.iter().map(|&concept| concept as i64).collect();
        write("concept", Tensor::from_slice(&concepts))?;
        write("distance", Tensor::from_slice(&clusters.distances))
    }

    /// Puts the parts of `world` workers together, in the order of their ranks, and takes them away.
    ///
    /// # Errors
    /// A part that is not there; a disk that is full or does not write.
    pub fn assemble(&self, info: &LibraryInfo, centres: &Tensor, world: usize) -> Result<(), ConceptsError> {
        let path = self.folder.join(TENSORS);
        let temporary = path.with_extension("safetensors.tmp");
        let failed = |source| ConceptsError::io(&temporary, source);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary).map_err(failed)?);
        let (slots, per_image) = (info.slots, info.made_from.slots_per_image.max(1));
        file.write_all(&self.header(info, centres)?).map_err(failed)?;
        (0..slots).try_for_each(|index| file.write_all(&(index / per_image).to_le_bytes())).map_err(failed)?;
        (0..slots).try_for_each(|index| file.write_all(&(index % per_image).to_le_bytes())).map_err(failed)?;
        let parts = |name: &str, file: &mut BufWriter<File>| {
            (0..world).try_for_each(|rank| {
                let from = part(&self.folder, name, rank);
                let mut from = File::open(&from).map_err(|source| ConceptsError::io(&from, source))?;
                io::copy(&mut from, file).map(drop).map_err(failed)
            })
        };
        parts("concept", &mut file)?;
        file.write_all(&rows::bytes(centres)?).map_err(failed)?;
        for name in ["distance", "slots", "conditioning"] {
            parts(name, &mut file)?;
        }
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, &path).map_err(|source| ConceptsError::io(&path, source))?;
        let parts = self.folder.join(PARTS);
        fs::remove_dir_all(&parts).map_err(|source| ConceptsError::io(&parts, source))
    }

    /// The header of the file: names, kinds, shapes and places of the tensors, in the order in which they are written.
    fn header(&self, info: &LibraryInfo, centres: &Tensor) -> Result<Vec<u8>, ConceptsError> {
        let (slots, centres) = (info.slots, centres.size()[0].unsigned_abs());
        let (slot_size, out_size) = (self.slots.width() as u64, self.conditioning.width() as u64);
        let tensors: [(&str, &str, Vec<u64>); 7] = [
            ("image", "I64", vec![slots]),
            ("slot", "I64", vec![slots]),
            ("concept", "I64", vec![slots]),
            ("centres", "F32", vec![centres, slot_size]),
            ("distance", "F32", vec![slots]),
            ("slots", "F32", vec![slots, slot_size]),
            ("conditioning", "F32", vec![slots, out_size]),
        ];
        let metadata = json!({ "format": "pt", MADE_FROM: described(&info.made_from) });
        let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), metadata)]);
        let mut begin = 0;
        for (name, kind, shape) in tensors {
            let end = begin + shape.iter().product::<u64>() * if kind == "I64" { 8 } else { 4 };
            header.insert(name.to_owned(), json!({ "dtype": kind, "shape": shape, "data_offsets": [begin, end] }));
            begin = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        // Tensors begin at a multiple of 8.
        text.resize(text.len().next_multiple_of(8), b' ');
        Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
    }
}

/// A worker's file of one tensor.
fn part(folder: &Path, name: &str, rank: usize) -> PathBuf {
    folder.join(PARTS).join(format!("{rank:05}.{name}"))
}
