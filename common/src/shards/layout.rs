//! The bytes of a shard file: a safetensors header, padded so that the data begins at a page border, then one tensor after the other.

use serde::Serialize;

use super::manifest::StoredColumn;
use super::schema::{Column, DType};

/// Data begins at a multiple of this, so that rows whose size is a power of two stay aligned for direct reads.
const ALIGNMENT: usize = 4096;
/// Aim for the size of a block, the unit that is fetched and verified. Smaller blocks waste fewer bytes when rows are read in
/// random order, larger ones need fewer requests.
const BLOCK_BYTES: usize = 1 << 20;

/// A column of one shard with its rows.
pub(super) struct Filled<'a> {
    /// The column.
    pub(super) column: &'a Column,
    /// `rows * column.row_bytes()` bytes.
    pub(super) data: &'a [u8],
}

#[derive(Serialize)]
struct TensorInfo<'a> {
    dtype: DType,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Rows per block of a column: about [`BLOCK_BYTES`], one at least.
pub(super) fn rows_per_block(column: &Column) -> u64 {
    (BLOCK_BYTES / column.row_bytes()).max(1) as u64
}

/// The file that holds `columns` of `rows` rows each, in this order, and where each column lies in it.
pub(super) fn encode(rows: u64, columns: &[Filled<'_>]) -> Result<(Vec<u8>, Vec<StoredColumn>), serde_json::Error> {
    let header = header(rows, columns)?;
    let size: usize = columns.iter().map(|filled| filled.data.len()).sum();
    let mut file = Vec::with_capacity(8 + header.len() + size);
    file.extend_from_slice(&(header.len() as u64).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    let mut stored = Vec::with_capacity(columns.len());
    for Filled { column, data } in columns {
        let rows_per_block = rows_per_block(column);
        stored.push(StoredColumn {
            name: column.name.clone(),
            offset: file.len() as u64,
            rows_per_block,
            crc32c: data.chunks(rows_per_block as usize * column.row_bytes()).map(crc32c::crc32c).collect(),
        });
        file.extend_from_slice(data);
    }
    Ok((file, stored))
}

/// The JSON header, filled up with spaces (which the format allows) to the next page border.
fn header(rows: u64, columns: &[Filled<'_>]) -> Result<String, serde_json::Error> {
    let mut tensors = Vec::with_capacity(columns.len());
    let mut offset = 0;
    for Filled { column, data } in columns {
        let shape: Vec<usize> = std::iter::once(rows as usize).chain(column.shape.iter().copied()).collect();
        let info = TensorInfo { dtype: column.dtype, shape: &shape, data_offsets: [offset, offset + data.len()] };
        tensors.push(format!("{}:{}", serde_json::to_string(&column.name)?, serde_json::to_string(&info)?));
        offset += data.len();
    }
    let mut header = format!("{{{}}}", tensors.join(","));
    let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    Ok(header)
}
