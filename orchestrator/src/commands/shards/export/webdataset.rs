//! Samples in a tar file, as WebDataset reads them: all files of a sample one after the other, with one key before the first dot.

use common::shards::{Column, DType, Encoding, ORIGIN, OwnedRows};
use serde_json::Value;

use super::Shard;

/// Files in a tar begin and end at multiples of this.
const RECORD: usize = 512;

/// The shard as a tar file. What the data set says about itself, as the scaling factor of its latents, comes first, in a file that belongs
/// to no sample.
pub(super) fn tar(shard: &Shard, metadata: &Value) -> Vec<u8> {
    let mut file = Vec::new();
    append(&mut file, ORIGIN, metadata.to_string().as_bytes());
    for row in 0..shard.rows {
        for (column, rows) in &shard.columns {
            let name = format!("{:010}.{}.{}", shard.first + row, column.name.replace(['.', '/'], "_"), extension(column));
            match rows {
                OwnedRows::Encoded(rows) => append(&mut file, &name, &rows[row as usize]),
                OwnedRows::Fixed(rows) => {
                    let bytes = &rows[row as usize * column.row_bytes()..][..column.row_bytes()];
                    append(&mut file, &name, &npy(column, bytes));
                }
            }
        }
    }
    // Two empty records end the archive.
    file.resize(file.len() + 2 * RECORD, 0);
    file
}

/// What the decoders of WebDataset go by.
fn extension(column: &Column) -> &'static str {
    match column.encoding {
        None => "npy",
        Some(Encoding::Png) => "png",
        Some(Encoding::Jpeg { .. }) => "jpg",
        Some(Encoding::Webp { .. }) => "webp",
    }
}

/// An array as NumPy saves it (format 1.0).
fn npy(column: &Column, bytes: &[u8]) -> Vec<u8> {
    let kind = match column.dtype {
        DType::U8 => "|u1",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
    };
    let sides: String = column.shape.iter().map(|side| format!("{side}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", sides.trim_end());
    // With its end the header is a multiple of 64 bytes.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 11;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), bytes].concat()
}

/// A file in the archive (POSIX ustar).
fn append(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0; RECORD];
    let mut field = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    field(0, &name.as_bytes()[..name.len().min(100)]);
    field(100, b"0000644\0");
    field(108, b"0000000\0");
    field(116, b"0000000\0");
    field(124, format!("{:011o}\0", content.len()).as_bytes());
    field(136, b"00000000000\0");
    field(148, b"        ");
    field(156, b"0");
    field(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(RECORD), 0);
}
