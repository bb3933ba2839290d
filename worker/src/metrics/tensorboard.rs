//! Event files for TensorBoard: the few messages that scalars and pictures need, framed as TFRecords.

use prost::{Message, Oneof};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

/// `tensorflow.Summary.Image`.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3: RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1: start. TensorBoard then forgets what earlier files hold of this step and later ones.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// An event file that grows.
pub(super) struct EventFile {
    file: BufWriter<File>,
}

impl EventFile {
    /// Creates a new event file in `folder` whose first record will be of `first_step`; `name` keeps files of one second apart.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub(super) fn create(folder: &Path, name: &str, first_step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("events.out.tfevents.{:010}.{name}", wall_time() as u64));
        let mut file = Self { file: BufWriter::new(File::create(path)?) };
        file.write(0, What::FileVersion("brain.Event:2".into()))?;
        file.write(first_step, What::SessionLog(SessionLog { status: 1 }))?;
        file.flush()?;
        Ok(file)
    }

    /// Adds named scalars.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub(super) fn scalars<'a>(&mut self, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let value = |(tag, value): (&str, f64)| Value { tag: tag.into(), content: Some(Content::SimpleValue(value as f32)) };
        self.write(step, What::Summary(Summary { values: scalars.into_iter().map(value).collect() }))
    }

    /// Adds an RGB picture, given as a PNG file and its size in pixels.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub(super) fn picture(&mut self, step: u64, tag: &str, [width, height]: [u32; 2], png: Vec<u8>) -> io::Result<()> {
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded: png };
        self.write(step, What::Summary(Summary { values: vec![Value { tag: tag.into(), content: Some(Content::Image(image)) }] }))
    }

    /// Hands everything to the file system.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let event = Event { wall_time: wall_time(), step: step as i64, what: Some(what) };
        self.file.write_all(&frame(&event.encode_to_vec()))
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A TFRecord: length, checksum of the length, data, checksum of the data; all little-endian.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that checksums of data that hold checksums stay good checksums.
pub(crate) fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// (step, tag, value) of every scalar and picture of a file; pictures have their PNG's length as value. A start of a session has
    /// the tag `start`.
    pub(in crate::metrics) fn read(path: &Path) -> Vec<(i64, String, f64)> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc(&rest[..8]).to_le_bytes(), rest[8..12]);
            let data = &rest[12..12 + length];
            assert_eq!(masked_crc(data).to_le_bytes(), rest[12 + length..16 + length]);
            rest = &rest[16 + length..];
            let event = Event::decode(data).unwrap();
            if let Some(What::SessionLog(SessionLog { status: 1 })) = event.what {
                found.push((event.step, "start".to_owned(), 0.0));
            }
            let Some(What::Summary(summary)) = event.what else { continue };
            for value in summary.values {
                let number = match value.content.unwrap() {
                    Content::SimpleValue(number) => f64::from(number),
                    Content::Image(image) => image.encoded.len() as f64,
                };
                found.push((event.step, value.tag, number));
            }
        }
        found
    }

    #[test]
    fn records_equal_those_of_tensorboard() {
        // Written by TensorBoard's own EventFileWriter: the file version at time 1.5.
        let event = Event { wall_time: 1.5, step: 0, what: Some(What::FileVersion("brain.Event:2".into())) };
        assert_eq!(hex(&frame(&event.encode_to_vec())), GOLDEN_VERSION);
        // The scalar "loss" = 0.25 of step 7 at time 1.5.
        let values = vec![Value { tag: "loss".into(), content: Some(Content::SimpleValue(0.25)) }];
        let event = Event { wall_time: 1.5, step: 7, what: Some(What::Summary(Summary { values })) };
        assert_eq!(hex(&frame(&event.encode_to_vec())), GOLDEN_SCALAR);
    }

    const GOLDEN_VERSION: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
    const GOLDEN_SCALAR: &str = "1a00000000000000129bd82d09000000000000f83f10072a0d0a0b0a046c6f7373150000803ec9d07b8d";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
