//! Ids: 128 bytes that name a file in `/dev/shm`.

use crate::failure::Failure;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UniqueId(pub(crate) [u8; 128]);

/// The folder of all segments: memory of this host.
pub(crate) const FOLDER: &str = "/dev/shm";

/// How their names begin.
pub(crate) const PREFIX: &str = "nccl-stand-in-";

/// Hexadecimal digits after it.
const DIGITS: usize = 32;

impl UniqueId {
    /// An id that nobody has had before.
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut random = [0; DIGITS / 2];
        let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random));
        read.map_err(|error| Failure::system("/dev/urandom", error))?;
        let digits = random.map(|byte| format!("{byte:02x}")).concat();
        let mut bytes = [0; 128];
        for (byte, letter) in bytes.iter_mut().zip(PREFIX.bytes().chain(digits.bytes())) {
            *byte = letter;
        }
        Ok(Self(bytes))
    }

    /// The file that it names.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        let (name, rest) = self.0.split_at(PREFIX.len() + DIGITS);
        let name = str::from_utf8(name).unwrap_or_default();
        let digits = name.strip_prefix(PREFIX).unwrap_or_default();
        let valid =
            !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && rest.iter().all(|byte| *byte == 0);
        if valid { Ok(Path::new(FOLDER).join(name)) } else { Err(Failure::argument("this id was not made by the stand-in")) }
    }
}
