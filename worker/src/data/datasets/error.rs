//! What is wrong with a published data set, each in one line that names the file and what to do.

use crate::data::CodecError;
use common::storage::StorageError;
use std::io;
use thiserror::Error;

/// Letters of what a reader says that are shown.
const QUOTED: usize = 200;

/// Why a data set cannot be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The source cannot be reached, or its URL cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An image cannot be stored in the format that is asked for.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The system refused to read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file or archive.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A source that does not exist.
    #[error("import.source: {file} does not exist")]
    Missing {
        /// Where it should be.
        file: String,
    },
    /// A folder or archive without a single sample of the layout.
    #[error("{url}: nothing to import, no {expected}; is import.layout right?")]
    Empty {
        /// The source.
        url: String,
        /// The files that make up the layout.
        expected: &'static str,
    },
    /// Different kinds of archives, or different data sets, in one folder.
    #[error("{url}: holds both {one} and {other}; name one of them in import.source")]
    Mixed {
        /// The source.
        url: String,
        /// One of them.
        one: String,
        /// Another one.
        other: String,
    },
    /// An archive that ends early or is none.
    #[error("{file}: {reason}; the archive is truncated, damaged or of another kind, fetch it again")]
    Archive {
        /// The archive.
        file: String,
        /// What its reader says.
        reason: String,
    },
    /// A TFRecord file that ends early or is none.
    #[error("{file}: at offset {offset}: {reason}; the file is truncated, damaged or not a TFRecord file, fetch it again")]
    Record {
        /// The TFRecord file.
        file: String,
        /// Where the record begins, in the unpacked file if it is gzipped.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Fewer records than the configuration asks for.
    #[error("{file}: ends after {found} records, of which {asked} are asked for; lower import.train or import.validation")]
    FewRecords {
        /// The TFRecord file.
        file: String,
        /// Records that it has.
        found: usize,
        /// Records that were asked for.
        asked: usize,
    },
    /// An image or mask that cannot be decoded.
    #[error("{file}: not a readable image: {reason}")]
    Picture {
        /// The image.
        file: String,
        /// What its decoder says.
        reason: String,
    },
    /// A mask that is not of the size of its image.
    #[error("{file}: the mask is {} x {} pixels, its image {} x {}", found.0, found.1, expected.0, expected.1)]
    MaskSize {
        /// The mask, or the record that holds it.
        file: String,
        /// Width and height of the mask.
        found: (usize, usize),
        /// Width and height of the image.
        expected: (usize, usize),
    },
    /// A mask with an instance that the labels do not have.
    #[error("{file}: the mask has an instance {instance}, but there are {objects} objects")]
    Instance {
        /// The mask, or the record that holds it.
        file: String,
        /// The largest instance in the mask.
        instance: usize,
        /// Objects that are described.
        objects: usize,
    },
    /// An image without its mask or labels.
    #[error("{file}: {missing} is missing")]
    Companion {
        /// The image.
        file: String,
        /// The file that should be there.
        missing: String,
    },
    /// Labels that cannot be read.
    #[error("{file}: unusable labels: {reason}")]
    Labels {
        /// The JSON file, or the record.
        file: String,
        /// What is wrong with them.
        reason: String,
    },
    /// What an archive says about its data set cannot be.
    #[error("{file}: {reason}")]
    Origin {
        /// The file that says it.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image with moments that would be cut or scaled.
    #[error(
        "{file}: its moments are of the whole image, {} x {} pixels, but data.resolution = {side} and import.crop = {crop} would cut or scale \
         it; change these, or leave the moments out of the tar files", size.0, size.1
    )]
    Moments {
        /// The image.
        file: String,
        /// Its width and height.
        size: (usize, usize),
        /// The side it would get.
        side: usize,
        /// The share of its shorter side that would be kept.
        crop: f64,
    },
    /// More objects than the tables have rows.
    #[error("{file}: {objects} objects, but the tables have {limit} rows; raise import.max_objects")]
    Objects {
        /// The sample.
        file: String,
        /// Its objects.
        objects: usize,
        /// Rows of the tables.
        limit: usize,
    },
    /// A split without samples.
    #[error("{url}: no samples for the {split} split; {hint}")]
    Split {
        /// The source.
        url: String,
        /// The split.
        split: &'static str,
        /// What to do.
        hint: &'static str,
    },
}

impl ImportError {
    /// An error while reading `file`; one that the system did not raise is about the content.
    pub(super) fn of_io(file: &str, source: io::Error) -> Self {
        let file = file.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { file },
            _ if is_system(&source) => Self::Read { file, source },
            _ => Self::Archive { file, reason: printable(&source.to_string()) },
        }
    }

    /// Whether the data set is at fault, so that trying again cannot help.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_refusal() || error.is_not_found(),
            Self::Read { .. } => false,
            _ => true,
        }
    }
}

/// What a reader says, which may quote the bytes that it has stumbled over.
fn printable(said: &str) -> String {
    let shown = |letter: char| if letter.is_control() || letter == char::REPLACEMENT_CHARACTER { '?' } else { letter };
    said.chars().take(QUOTED).map(shown).collect()
}

/// Whether disk or network are the cause, and not what they delivered.
fn is_system(error: &io::Error) -> bool {
    error.raw_os_error().is_some() || error.get_ref().is_some_and(|cause| cause.is::<StorageError>())
}
