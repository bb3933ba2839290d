//! CLEVR with masks, of the multi-object data sets (Kabra et al. 2019): 320 x 240 images, and a mask for each of 11 entities.
//!
//! One gzipped TFRecord file of 100,000 records without splits. In use are the first 70,000 to train on and the 15,000 behind them; other
//! numbers are `import.train` and `import.validation`. Every value of image and masks is a string of one byte, so a record is 3 MB
//! before it was packed, and unpacking is what takes the time: each worker unpacks the file once, in passing, from its beginning to the
//! last record that it needs, and decodes only its own.

use super::example::Example;
use super::labels::{Kind, Label, Rows};
use super::picture::Raster;
use super::source::{PieceReader, Source};
use super::split::Published;
use super::{Contents, ImportError, Importer, Kept, Member, Sample, tfrecord};
use crate::scenes::Split;
use bytes::Bytes;
use common::config::ImportConfig;
use flate2::bufread::MultiGzDecoder;
use std::io::BufReader;
use std::sync::{Mutex, PoisonError};

/// Rows and columns of images and masks.
const SIZE: (usize, usize) = (240, 320);
/// Records to train on, and those behind them that are held out.
const PARTS: [usize; 2] = [70_000, 15_000];

/// Tables about the objects. What the codes of the categories stand for was not published.
const LABELS: &[Label] = &[
    Label::category("color", &[]),
    Label::category("material", &[]),
    Label::category("shape", &[]),
    Label::category("size", &[]),
    Label::figures("x", &[]),
    Label::figures("y", &[]),
    Label::figures("z", &[]),
    Label::figures("pixel_coords", &[3]),
    Label::figures("rotation", &[]),
];

/// The data set.
pub(super) struct ClevrMasks {
    reader: PieceReader,
    members: Vec<Member>,
    pass: Mutex<Option<Pass>>,
}

/// A file that is being unpacked.
struct Pass {
    stream: MultiGzDecoder<BufReader<PieceReader>>,
    /// Where the stream is in the unpacked file.
    offset: u64,
    /// The record that comes next.
    next: usize,
}

impl ClevrMasks {
    /// Finds the file. How many records it has shows when it is read.
    pub(super) fn open(source: &Source, config: &ImportConfig) -> Result<Self, ImportError> {
        let is_records = |name: &str| name.ends_with(".tfrecords") || name.ends_with(".tfrecord");
        let mut files = source.list()?.into_iter().filter(|entry| is_records(&entry.name));
        let expected = "clevr_with_masks_train.tfrecords";
        let file = files.next().ok_or_else(|| ImportError::Empty { url: source.url(), expected })?;
        if let Some(other) = files.next() {
            return Err(ImportError::Mixed { url: source.url(), one: file.name, other: other.name });
        }
        let parts = [config.train.unwrap_or(PARTS[0]), config.validation.unwrap_or(PARTS[1])];
        let splits = [Split::Train, Split::Validation].into_iter().zip(parts);
        let published = splits.flat_map(|(split, count)| std::iter::repeat_n(Published::As(split), count));
        let member = |(record, published): (usize, Published)| {
            let name = format!("record {record}");
            Member { group: name.clone(), name, published }
        };
        let members = published.enumerate().map(member).collect();
        Ok(Self { reader: source.reader(&file)?, members, pass: Mutex::new(None) })
    }

    fn begin(&self) -> Pass {
        let stream = MultiGzDecoder::new(BufReader::with_capacity(1 << 20, self.reader.clone()));
        Pass { stream, offset: 0, next: 0 }
    }

    /// The records asked for, from where the pass is on.
    fn records(&self, pass: &mut Pass, asked: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        let file = self.reader.file();
        let mut found = Vec::with_capacity(asked.len());
        while found.len() < asked.len() {
            let record = tfrecord::next(&mut pass.stream, file, &mut pass.offset)?.ok_or_else(|| ImportError::FewRecords {
                file: file.to_owned(),
                found: pass.next,
                asked: self.members.len(),
            })?;
            if pass.next == asked[found.len()] {
                found.push(vec![record]);
            }
            pass.next += 1;
        }
        Ok(found)
    }
}

impl Importer for ClevrMasks {
    fn url(&self) -> String {
        self.reader.file().to_owned()
    }

    fn contents(&self, _member: usize) -> Contents {
        Contents::of_objects(true, LABELS)
    }

    fn members(&self) -> &[Member] {
        &self.members
    }

    fn fetch(&self, members: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        let mut place = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let first = members.first().copied().unwrap_or_default();
        let mut pass = place.take().filter(|pass| pass.next <= first).unwrap_or_else(|| self.begin());
        let found = self.records(&mut pass, members)?;
        *place = Some(pass);
        Ok(found)
    }

    fn decode(&self, member: usize, bytes: &[Bytes], _frame: usize) -> Result<Sample, ImportError> {
        let file = format!("{}: {}", self.reader.file(), self.members[member].name);
        let refused = |reason: String| ImportError::Labels { file: file.clone(), reason };
        let example = Example::parse(&bytes[0], &file)?;
        let present = example.floats("visibility")?;
        let (rows, columns) = SIZE;
        let (image, masks) = (example.joined("image")?, example.joined("mask")?);
        let sizes =
            format!("{} values of an image and {} of masks are not those of {} entities", image.len(), masks.len(), present.len());
        let picture = Raster::new(columns, rows, image).ok_or_else(|| refused(sizes.clone()))?;
        if masks.len() != present.len() * rows * columns {
            return Err(refused(sizes));
        }
        // Entity 0 is the background. The others are there if they are visible, the first ones usually.
        let objects = present.iter().rposition(|visible| *visible > 0.0).unwrap_or_default();
        let mut mask = vec![0; rows * columns];
        for (entity, own) in masks.chunks_exact(rows * columns).enumerate().skip(1) {
            mask.iter_mut().zip(own).filter(|(_, own)| **own > 0).for_each(|(instance, _)| *instance = entity as u8);
        }
        let table = |label: &Label| {
            let width = label.width();
            let kept = width..(objects + 1) * width;
            let found = match label.kind {
                Kind::Category(_) => {
                    let codes = example.joined(label.name)?;
                    codes.get(kept).map(|codes| Rows::Codes(codes.iter().map(|&code| i64::from(code)).collect()))
                }
                Kind::Figures(_) => example.floats(label.name)?.get(kept).map(|figures| Rows::Figures(figures.to_vec())),
            };
            found.ok_or_else(|| refused(format!("feature {} is too short for {objects} objects", label.name)))
        };
        let tables = LABELS.iter().map(table).collect::<Result<_, _>>()?;
        let (mask, visibility) = (Raster::new(columns, rows, mask), present[1..].to_vec());
        Ok(Sample { picture, mask, objects, visibility, rows: tables, file, kept: Kept::default() })
    }
}
