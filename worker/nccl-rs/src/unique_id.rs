//! The id under which the ranks of one communicator find each other: made by one rank, sent to the others by means of their own.

use crate::ffi::{RawUniqueId, UNIQUE_ID_BYTES};
use std::fmt;
use std::str::FromStr;

/// An `ncclUniqueId`: 128 bytes that say where rank 0 listens. It serves for one communicator only.
///
/// It goes through a control channel as bytes ([`UniqueId::as_bytes`], `TryFrom<&[u8]>`) or as 256 hexadecimal digits ([`fmt::Display`],
/// [`FromStr`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; Self::BYTES]);

impl UniqueId {
    /// Its length in bytes.
    pub const BYTES: usize = UNIQUE_ID_BYTES;

    /// The bytes to send.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    pub(crate) const fn raw(self) -> RawUniqueId {
        RawUniqueId(self.0)
    }

    pub(crate) const fn from_raw(raw: RawUniqueId) -> Self {
        Self(raw.0)
    }
}

/// Something that was received as an id and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UniqueIdError {
    /// Too short or too long.
    #[error("an NCCL id has {expected} {unit}, this one has {found}")]
    Length {
        /// What is counted: bytes or hexadecimal digits.
        unit: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("character {offset} of an NCCL id is no hexadecimal digit")]
    Digit {
        /// Its place, from 0.
        offset: usize,
    },
    /// Nothing but zeros: memory that nobody has written an id to.
    #[error("this NCCL id is all zeros: nobody has filled it in")]
    Empty,
}

impl TryFrom<&[u8]> for UniqueId {
    type Error = UniqueIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, UniqueIdError> {
        let wrong = |_| UniqueIdError::Length { unit: "bytes", found: bytes.len(), expected: Self::BYTES };
        let bytes: [u8; Self::BYTES] = bytes.try_into().map_err(wrong)?;
        if bytes.iter().all(|byte| *byte == 0) { Err(UniqueIdError::Empty) } else { Ok(Self(bytes)) }
    }
}

impl FromStr for UniqueId {
    type Err = UniqueIdError;

    fn from_str(digits: &str) -> Result<Self, UniqueIdError> {
        let value = |(offset, digit): (usize, char)| digit.to_digit(16).ok_or(UniqueIdError::Digit { offset });
        let values: Vec<u32> = digits.chars().enumerate().map(value).collect::<Result<_, _>>()?;
        if values.len() != 2 * Self::BYTES {
            let (found, expected) = (values.len(), 2 * Self::BYTES);
            return Err(UniqueIdError::Length { unit: "hexadecimal digits", found, expected });
        }
        let bytes: Vec<u8> = values.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
        Self::try_from(bytes.as_slice())
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UniqueId({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_digits_go_there_and_back() {
        let bytes: Vec<u8> = (0..=255).step_by(2).collect();
        let id = UniqueId::try_from(bytes.as_slice()).unwrap();
        assert_eq!(id.as_bytes().as_slice(), bytes);
        let digits = id.to_string();
        assert!(digits.starts_with("00020406") && digits.ends_with("fcfe"), "{digits}");
        assert_eq!(digits.parse(), Ok(id));
        assert_eq!(digits.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let short = UniqueId::try_from([7; 127].as_slice()).unwrap_err();
        assert_eq!(short.to_string(), "an NCCL id has 128 bytes, this one has 127");
        assert_eq!(UniqueId::try_from([0; 128].as_slice()), Err(UniqueIdError::Empty));
        let digits = "7".repeat(255);
        assert_eq!(digits.parse::<UniqueId>().unwrap_err().to_string(), "an NCCL id has 256 hexadecimal digits, this one has 255");
        assert_eq!(format!("{digits}g").parse::<UniqueId>(), Err(UniqueIdError::Digit { offset: 255 }));
        assert_eq!(format!("ü{digits}").parse::<UniqueId>(), Err(UniqueIdError::Digit { offset: 0 }));
    }
}
