//! Rows of numbers: in memory, or in files, so that a library of slots may be larger than the memory; those are written once, from the first
//! to the last, and then read in any order.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use torch_shim::memory::Unfinished;

use super::ConceptsError;

/// f32 rows of one width that can be read in any order.
pub trait Rows {
    /// Number of rows.
    fn rows(&self) -> u64;

    /// Numbers per row.
    fn width(&self) -> usize;

    /// Rows [n, width] on the CPU, in the order asked for.
    ///
    /// # Errors
    /// A file that is shorter than it should be, or cannot be read.
    fn read(&self, rows: &[u64]) -> Result<Tensor, ConceptsError>;
}

/// In memory: [rows, width].
impl Rows for Tensor {
    fn rows(&self) -> u64 {
        self.size()[0].unsigned_abs()
    }

    fn width(&self) -> usize {
        self.size()[1].unsigned_abs() as usize
    }

    fn read(&self, rows: &[u64]) -> Result<Tensor, ConceptsError> {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        Ok(self.f_index_select(0, &Tensor::from_slice(&rows))?)
    }
}

/// Rows that are part of a file.
#[derive(Debug)]
pub struct RowFile {
    file: File,
    path: PathBuf,
    /// Where the first row begins.
    offset: u64,
    width: usize,
    rows: u64,
}

impl RowFile {
    /// An empty file for rows of `width` numbers, in the place of whatever lies at `path`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, width: usize) -> Result<Self, ConceptsError> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(|source| ConceptsError::io(path, source))?;
        Ok(Self { file, path: path.to_owned(), offset: 0, width, rows: 0 })
    }

    /// The `rows` rows from byte `offset` on of the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, offset: u64, width: usize, rows: u64) -> Result<Self, ConceptsError> {
        let file = File::open(path).map_err(|source| ConceptsError::io(path, source))?;
        Ok(Self { file, path: path.to_owned(), offset, width, rows })
    }

    /// Adds rows [n, width].
    ///
    /// # Errors
    /// The disk is full, or does not write.
    pub fn append(&mut self, rows: &Tensor) -> Result<(), ConceptsError> {
        let bytes = bytes(&rows.to_kind(Kind::Float))?;
        self.file.write_all(&bytes).map_err(|source| ConceptsError::io(&self.path, source))?;
        self.rows += rows.size()[0].unsigned_abs();
        Ok(())
    }
}

impl Rows for RowFile {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, rows: &[u64]) -> Result<Tensor, ConceptsError> {
        let row_bytes = 4 * self.width;
        let mut tensor = Unfinished::zeros(&[rows.len() as i64, self.width as i64], Kind::Float)?;
        let memory = tensor.bytes();
        let mut done = 0;
        // Neighbours in the file are read together.
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let next = done + run.len() * row_bytes;
            let at = self.offset + run[0] * row_bytes as u64;
            let read = self.file.read_exact_at(&mut memory[done..next], at);
            read.map_err(|source| ConceptsError::io(&self.path, source))?;
            done = next;
        }
        Ok(tensor.finish())
    }
}

/// The bytes of a tensor in the order of its dimensions, little-endian as safetensors has them and as every machine is that libtorch runs on.
pub(super) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, ConceptsError> {
    let values = tensor.to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; values.numel() * values.kind().elt_size_in_bytes()];
    values.f_copy_data_u8(&mut bytes, values.numel())?;
    Ok(bytes)
}
