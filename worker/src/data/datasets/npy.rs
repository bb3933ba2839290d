//! Arrays as NumPy saves them (`.npy`, format versions 1 to 3).

use common::shards::DType;

/// How the files begin.
const MAGIC: &[u8] = b"\x93NUMPY";

/// An array: what its elements are, its sides, and its elements one row after the other.
#[derive(Debug, PartialEq)]
pub(super) struct Array<'b> {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) data: &'b [u8],
}

impl<'b> Array<'b> {
    /// Whether a file begins like one.
    pub(super) fn is_one(file: &[u8]) -> bool {
        file.starts_with(MAGIC)
    }

    /// Reads a whole file.
    pub(super) fn parse(file: &'b [u8]) -> Result<Self, String> {
        let (header, data) = split(file).ok_or("it is no array of NumPy")?;
        let field = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, rest)| rest.trim_start());
        let (Some(descr), Some(order), Some(shape)) = (field("descr"), field("fortran_order"), field("shape")) else {
            return Err(format!("its header is {header:?}"));
        };
        if !order.starts_with("False") {
            return Err("it is stored by columns; save numpy.ascontiguousarray of it".into());
        }
        let kind = descr.trim_start_matches('\'').split('\'').next().unwrap_or_default();
        let dtype = match kind {
            "|u1" => DType::U8,
            "<f2" => DType::F16,
            "<f4" => DType::F32,
            "<i8" => DType::I64,
            "<u8" => DType::U64,
            _ => return Err(format!("its elements are {kind}; readable are |u1, <f2, <f4, <i8 and <u8")),
        };
        let sides = shape.strip_prefix('(').and_then(|shape| shape.split(')').next()).unwrap_or_default();
        let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty()).map(str::parse);
        let shape: Vec<usize> = sides.collect::<Result<_, _>>().map_err(|_| format!("its header is {header:?}"))?;
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, side| bytes.checked_mul(*side));
        if bytes != Some(data.len()) {
            return Err(format!("{} bytes are no array of shape {shape:?}", data.len()));
        }
        Ok(Self { dtype, shape, data })
    }
}

/// Header and elements.
fn split(file: &[u8]) -> Option<(&str, &[u8])> {
    let rest = file.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_at_checked(2)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest))?,
        2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest))?,
        _ => return None,
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::datasets::testing::npy;

    #[test]
    fn arrays_are_read_and_others_are_named() {
        let data: Vec<u8> = (0..24).collect();
        let file = npy("<f2", "(3, 2, 2,)", &data);
        assert_eq!(Array::parse(&file).unwrap(), Array { dtype: DType::F16, shape: vec![3, 2, 2], data: &data });
        let file = npy("<i8", "()", &data[..8]);
        assert_eq!(Array::parse(&file).unwrap(), Array { dtype: DType::I64, shape: vec![], data: &data[..8] });
        let refused = |file: &[u8]| Array::parse(file).unwrap_err();
        assert!(refused(&npy("<f8", "(3,)", &data)).contains("<f8"));
        assert!(refused(&npy("<f4", "(7,)", &data)).contains("24 bytes are no array of shape [7]"));
        for file in [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"<html>"] {
            assert_eq!(refused(file), "it is no array of NumPy");
        }
    }
}
