//! `tf.train.Example`: named lists of bytes, floats or integers.
//!
//! Only what is asked for is decoded. A record of MOVi is mostly optical flow, depth and normals, which nobody here needs; their bytes are
//! passed over.

use super::ImportError;
use bytes::{Buf, Bytes};
use prost::Message;

/// `tensorflow.Example`.
#[derive(Clone, PartialEq, Message)]
struct Outer {
    #[prost(message, optional, tag = "1")]
    features: Option<Features>,
}

/// `tensorflow.Features`: on the wire, a map is a list of its entries.
#[derive(Clone, PartialEq, Message)]
struct Features {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    name: String,
    /// A `tensorflow.Feature`, not decoded yet.
    #[prost(bytes = "bytes", tag = "2")]
    feature: Bytes,
}

/// `tensorflow.Feature`: one of three.
#[derive(Clone, PartialEq, Message)]
struct Feature {
    /// A `tensorflow.BytesList`, not decoded yet.
    #[prost(bytes = "bytes", optional, tag = "1")]
    bytes: Option<Bytes>,
    #[prost(message, optional, tag = "2")]
    floats: Option<FloatList>,
    #[prost(message, optional, tag = "3")]
    integers: Option<IntegerList>,
}

#[derive(Clone, PartialEq, Message)]
struct FloatList {
    #[prost(float, repeated, tag = "1")]
    values: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct IntegerList {
    #[prost(int64, repeated, tag = "1")]
    values: Vec<i64>,
}

/// The tag of the values in a `tensorflow.BytesList`.
const VALUE: u8 = 0x0a;

/// One record.
pub(super) struct Example<'a> {
    entries: Vec<Entry>,
    file: &'a str,
}

impl<'a> Example<'a> {
    /// Finds the features of a record; `file` is for messages.
    pub(super) fn parse(record: &Bytes, file: &'a str) -> Result<Self, ImportError> {
        let refused = |reason: String| ImportError::Labels { file: file.to_owned(), reason };
        let outer = Outer::decode(record.clone()).map_err(|error| refused(format!("not a tf.train.Example: {error}")))?;
        Ok(Self { entries: outer.features.unwrap_or_default().entries, file })
    }

    fn refused(&self, name: &str, reason: &str) -> ImportError {
        ImportError::Labels { file: self.file.to_owned(), reason: format!("feature {name} {reason}") }
    }

    fn feature(&self, name: &str) -> Result<Feature, ImportError> {
        let entry = self.entries.iter().find(|entry| entry.name == name).ok_or_else(|| self.refused(name, "is missing"))?;
        Feature::decode(entry.feature.clone()).map_err(|_| self.refused(name, "cannot be decoded"))
    }

    /// Whether there is such a feature.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// A list of floats.
    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        Ok(self.feature(name)?.floats.ok_or_else(|| self.refused(name, "holds no floats"))?.values)
    }

    /// A list of integers.
    pub(super) fn integers(&self, name: &str) -> Result<Vec<i64>, ImportError> {
        Ok(self.feature(name)?.integers.ok_or_else(|| self.refused(name, "holds no integers"))?.values)
    }

    /// A list of byte strings.
    pub(super) fn strings(&self, name: &str) -> Result<Vec<Bytes>, ImportError> {
        let mut list = self.bytes_list(name)?;
        let mut values = Vec::new();
        while list.has_remaining() {
            values.push(next_value(&mut list).ok_or_else(|| self.refused(name, "cannot be decoded"))?);
        }
        Ok(values)
    }

    /// A list of byte strings, one behind the other. The multi-object data sets store every single value of an image as a string of one
    /// byte, a million of them.
    pub(super) fn joined(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        let mut list = self.bytes_list(name)?;
        let mut joined = Vec::with_capacity(list.len() / 3 + 1);
        while list.has_remaining() {
            let singles = list.chunks_exact(3).take_while(|chunk| chunk[0] == VALUE && chunk[1] == 1);
            let before = joined.len();
            joined.extend(singles.map(|chunk| chunk[2]));
            list.advance(3 * (joined.len() - before));
            if list.has_remaining() {
                joined.extend_from_slice(&next_value(&mut list).ok_or_else(|| self.refused(name, "cannot be decoded"))?);
            }
        }
        Ok(joined)
    }

    /// A list that has to have `length` values.
    pub(super) fn sized<T>(&self, name: &str, values: Vec<T>, length: usize) -> Result<Vec<T>, ImportError> {
        match values.len() {
            found if found == length => Ok(values),
            found => Err(self.refused(name, &format!("has {found} values, not {length}"))),
        }
    }

    fn bytes_list(&self, name: &str) -> Result<Bytes, ImportError> {
        self.feature(name)?.bytes.ok_or_else(|| self.refused(name, "holds no bytes"))
    }
}

/// Takes the first value off a `tensorflow.BytesList`.
fn next_value(list: &mut Bytes) -> Option<Bytes> {
    if list.get_u8() != VALUE {
        return None;
    }
    let length = prost::encoding::decode_varint(list).ok()? as usize;
    (length <= list.remaining()).then(|| list.split_to(length))
}
