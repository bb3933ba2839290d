//! The bytes of a shard file: a safetensors header, padded so that the data begins at a page border, then one tensor after the other.

use std::borrow::Cow;

use serde::Serialize;

use super::manifest::StoredColumn;
use super::schema::{Column, DType, Part};

/// Data begins at a multiple of this, so that rows whose size is a power of two stay aligned for direct reads.
const ALIGNMENT: usize = 4096;
/// Aim for the size of a block, the unit that is fetched and verified. Smaller blocks waste fewer bytes when rows are read in
/// random order, larger ones need fewer requests.
const BLOCK_BYTES: usize = 1 << 20;

/// The rows of a column in one shard, as a writer passes them.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Rows of one size, one after the other.
    Fixed(&'a [u8]),
    /// Encoded rows.
    Encoded(&'a [Vec<u8>]),
}

/// The rows of a column on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedRows {
    /// Rows of one size, one after the other.
    Fixed(Vec<u8>),
    /// Encoded rows.
    Encoded(Vec<Vec<u8>>),
}

impl<'a> From<&'a Vec<u8>> for Rows<'a> {
    fn from(rows: &'a Vec<u8>) -> Self {
        Self::Fixed(rows)
    }
}

impl<'a> From<&'a OwnedRows> for Rows<'a> {
    fn from(rows: &'a OwnedRows) -> Self {
        match rows {
            OwnedRows::Fixed(rows) => Self::Fixed(rows),
            OwnedRows::Encoded(rows) => Self::Encoded(rows),
        }
    }
}

/// A tensor of one shard with its elements.
pub(super) struct Filled<'a> {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
    rows_per_block: u64,
    /// Where each block ends in `data`; kept in the manifest only where rows differ in size.
    block_ends: Vec<u64>,
    part: Part,
}

#[derive(Serialize)]
struct TensorInfo<'a> {
    dtype: DType,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

impl<'a> Filled<'a> {
    /// The part `part` of `column`, whose rows in this shard are `rows`; none if those are of the other kind.
    pub(super) fn new(column: &Column, part: Part, rows: Rows<'a>) -> Option<Self> {
        let (name, dtype) = (part.name(column), part.dtype(column));
        let (shape, data, rows_per_block, block_ends): (Vec<usize>, Cow<'a, [u8]>, u64, Vec<u64>) = match (part, rows) {
            (Part::Rows, Rows::Fixed(data)) => {
                let row_bytes = column.row_bytes();
                let rows_per_block = (BLOCK_BYTES / row_bytes).max(1);
                let ends = data.chunks(rows_per_block * row_bytes).scan(0, |end, block| {
                    *end += block.len() as u64;
                    Some(*end)
                });
                let shape = std::iter::once(data.len() / row_bytes).chain(column.shape.iter().copied()).collect();
                (shape, data.into(), rows_per_block as u64, ends.collect())
            }
            (Part::Offsets, Rows::Encoded(rows)) => {
                let ends: Vec<u64> = std::iter::once(0).chain(ends_of(rows)).collect();
                let data: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
                let bytes = data.len() as u64;
                (vec![ends.len()], data.into(), ends.len() as u64, vec![bytes])
            }
            (Part::Bytes, Rows::Encoded(rows)) => {
                let data = rows.concat();
                let rows_per_block = (BLOCK_BYTES * rows.len() / data.len().max(1)).max(1);
                let ends: Vec<u64> = ends_of(rows).collect();
                let ends = ends.chunks(rows_per_block).filter_map(|block| block.last().copied());
                (vec![data.len()], data.into(), rows_per_block as u64, ends.collect())
            }
            _ => return None,
        };
        Some(Self { name, dtype, shape, data, rows_per_block, block_ends, part })
    }

    fn stored(&self, offset: u64) -> StoredColumn {
        let starts = std::iter::once(0).chain(self.block_ends.iter().copied());
        let blocks = starts.zip(&self.block_ends).map(|(start, &end)| &self.data[start as usize..end as usize]);
        StoredColumn {
            name: self.name.clone(),
            offset,
            rows_per_block: self.rows_per_block,
            crc32c: blocks.map(crc32c::crc32c).collect(),
            block_ends: if self.part == Part::Bytes { self.block_ends.clone() } else { Vec::new() },
        }
    }
}

/// Where each row ends when all lie one after the other.
fn ends_of(rows: &[Vec<u8>]) -> impl Iterator<Item = u64> {
    rows.iter().scan(0, |end, row| {
        *end += row.len() as u64;
        Some(*end)
    })
}

/// The file that holds `tensors`, in this order, and where each lies in it.
pub(super) fn encode(tensors: &[Filled<'_>]) -> Result<(Vec<u8>, Vec<StoredColumn>), serde_json::Error> {
    let header = header(tensors)?;
    let size: usize = tensors.iter().map(|filled| filled.data.len()).sum();
    let mut file = Vec::with_capacity(8 + header.len() + size);
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    let mut stored = Vec::with_capacity(tensors.len());
    for filled in tensors {
        stored.push(filled.stored(file.len() as u64));
        file.extend_from_slice(&filled.data);
    }
    Ok((file, stored))
}

/// The JSON header, filled up with spaces (which the format allows) to the next page border.
fn header(tensors: &[Filled<'_>]) -> Result<String, serde_json::Error> {
    let mut entries = Vec::with_capacity(tensors.len());
    let mut offset = 0;
    for filled in tensors {
        let end = offset + filled.data.len();
        let info = TensorInfo { dtype: filled.dtype, shape: &filled.shape, data_offsets: [offset, end] };
        entries.push(format!("{}:{}", serde_json::to_string(&filled.name)?, serde_json::to_string(&info)?));
        offset = end;
    }
    let mut header = format!("{{{}}}", entries.join(","));
    let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    Ok(header)
}
