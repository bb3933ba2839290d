//! TFRecord files: length-prefixed records, length and content each with a checksum.
//!
//! ```text
//! u64 length | u32 masked CRC-32C of the length | content | u32 masked CRC-32C of the content
//! ```
//!
//! The framing is these lines and no crate: the ones there are bring a machine-learning stack along. A plain file is indexed by hopping
//! from length to length, after which any record can be read; a gzipped one can only be read from its beginning.

use super::ImportError;
use super::source::PieceReader;
use crate::metrics::masked_crc;
use bytes::Bytes;
use std::io::{self, Read};

/// Bytes before the content.
const HEADER: u64 = 12;
/// Bytes behind the content.
const FOOTER: u64 = 4;

/// Where a record is in a plain file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it begins, with its header.
    offset: u64,
    /// Bytes of the content.
    length: u64,
}

/// Finds the records of a plain file, without reading their content.
pub(super) fn index(reader: &PieceReader) -> Result<Vec<Place>, ImportError> {
    let (mut offset, mut places) = (0, Vec::new());
    while offset < reader.size() {
        let refused = |reason: &str| damaged(reader.file(), offset, reason);
        if reader.size() - offset < HEADER {
            return Err(refused("it ends within the header of a record"));
        }
        let header = reader.piece(offset..offset + HEADER).map_err(|error| failed(reader.file(), offset, error))?;
        let length = length_of(&header).ok_or_else(|| refused("the length of the record has another checksum"))?;
        let end = offset.checked_add(HEADER + FOOTER).and_then(|end| end.checked_add(length));
        let end = end.filter(|end| *end <= reader.size()).ok_or_else(|| refused("it ends within a record"))?;
        places.push(Place { offset, length });
        offset = end;
    }
    Ok(places)
}

/// The content of a record of a plain file.
pub(super) fn read(reader: &PieceReader, place: Place) -> Result<Bytes, ImportError> {
    let Place { offset, length } = place;
    let begin = offset + HEADER;
    let bytes = reader.piece(begin..begin + length + FOOTER).map_err(|error| failed(reader.file(), offset, error))?;
    check(reader.file(), offset, &bytes)?;
    Ok(bytes.slice(..length as usize))
}

/// The content of the next record of a stream that is at `offset`, which moves on; none at its end.
pub(super) fn next(stream: &mut impl Read, file: &str, offset: &mut u64) -> Result<Option<Bytes>, ImportError> {
    let failed = |error| failed(file, *offset, error);
    let mut header = [0; HEADER as usize];
    if stream.read(&mut header[..1]).map_err(failed)? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).map_err(failed)?;
    let length = length_of(&header).ok_or_else(|| damaged(file, *offset, "the length of the record has another checksum"))?;
    let mut bytes = Vec::with_capacity((length + FOOTER) as usize);
    let read = stream.take(length + FOOTER).read_to_end(&mut bytes).map_err(failed)?;
    if (read as u64) < length + FOOTER {
        return Err(damaged(file, *offset, "it ends within a record"));
    }
    check(file, *offset, &bytes)?;
    *offset += HEADER + length + FOOTER;
    Ok(Some(Bytes::from(bytes).slice(..length as usize)))
}

/// The length in a header, if its checksum agrees.
fn length_of(header: &[u8]) -> Option<u64> {
    let (length, crc) = (header.first_chunk::<8>()?, header.get(8..)?.first_chunk::<4>()?);
    (masked_crc(length) == u32::from_le_bytes(*crc)).then(|| u64::from_le_bytes(*length))
}

/// Compares the content with the checksum behind it.
fn check(file: &str, offset: u64, bytes: &[u8]) -> Result<(), ImportError> {
    let agrees = bytes.split_last_chunk::<4>().is_some_and(|(content, crc)| masked_crc(content) == u32::from_le_bytes(*crc));
    if agrees { Ok(()) } else { Err(damaged(file, offset, "the content of the record has another checksum")) }
}

fn damaged(file: &str, offset: u64, reason: impl ToString) -> ImportError {
    ImportError::Record { file: file.to_owned(), offset, reason: reason.to_string() }
}

fn failed(file: &str, offset: u64, error: io::Error) -> ImportError {
    match ImportError::of_io(file, error) {
        ImportError::Archive { file, reason } => ImportError::Record { file, offset, reason },
        other => other,
    }
}
