//! The public data sets, in the layouts in which they are published.
//!
//! An [`Importer`] knows one layout. It lists its *members* (an image, or a video whose frames are images) in an order that depends on
//! nothing but the data set, fetches the bytes of some of them, and decodes single images with their masks and labels at their own size.
//! [`Part`] makes one split's rows of that, of one size, for the `import` job.
//!
//! To add a layout: a file with an [`Importer`], an arm in [`open`], a value of [`ImportLayout`].

mod clevr;
mod clevr_masks;
mod clevrtex;
mod error;
mod example;
mod files;
mod images;
mod labels;
mod movi;
mod movi_dump;
mod npy;
mod origin;
mod part;
mod picture;
mod prepare;
mod rows;
mod source;
mod split;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
mod tfrecord;
mod webdataset;

pub use error::ImportError;
pub(crate) use part::Part;

use bytes::Bytes;
use common::config::{ImportConfig, ImportLayout};
use common::shards::Column;
use labels::{Label, Rows};
use picture::{Mask, Picture};
use serde_json::{Map, Value};
use source::Source;
use split::Published;
use tokio::runtime::Handle;

/// A published data set.
pub(crate) trait Importer: Send + Sync {
    /// Where it lies, for messages.
    fn url(&self) -> String;
    /// What the images come with of a split to which this member belongs.
    fn contents(&self, member: usize) -> Contents;
    /// All members. Those of one split are rows in this order.
    fn members(&self) -> &[Member];
    /// Images per member: the frames of a video.
    fn frames(&self) -> usize {
        1
    }
    /// The bytes of the members asked for (ascending), whatever they consist of.
    ///
    /// # Errors
    /// What cannot be read, or is not what it should be.
    fn fetch(&self, members: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError>;
    /// One image of a member, from its bytes.
    ///
    /// # Errors
    /// What cannot be decoded, named.
    fn decode(&self, member: usize, bytes: &[Bytes], frame: usize) -> Result<Sample, ImportError>;
}

/// What the images of a data set come with.
pub(crate) struct Contents {
    /// Instance masks.
    masks: bool,
    /// The visibility of every object.
    visibility: bool,
    /// Tables about the objects.
    labels: &'static [Label],
    /// Further columns, which are stored as they come.
    arrays: Vec<Column>,
    /// What is known about the data set as a whole, for the manifest.
    origin: Map<String, Value>,
}

impl Contents {
    /// Of data sets about objects: with masks comes visibility.
    fn of_objects(masks: bool, labels: &'static [Label]) -> Self {
        Self { masks, visibility: masks, labels, arrays: Vec::new(), origin: Map::new() }
    }
}

/// An image or a video.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Unique in the data set.
    name: String,
    /// What a share that is held out takes as a whole: the video.
    group: String,
    /// Its split.
    published: Published,
}

/// One image, as published.
pub(crate) struct Sample {
    /// Where it comes from, for messages.
    file: String,
    picture: Picture,
    mask: Option<Mask>,
    /// Number of objects.
    objects: usize,
    /// One figure per object; empty without masks.
    visibility: Vec<f32>,
    /// The rows of each label.
    rows: Vec<Rows>,
    kept: Kept,
}

/// What is stored as it comes.
#[derive(Default)]
pub(crate) struct Kept {
    /// The files of image and mask, where they may be stored instead of their pixels if nothing is done to those.
    files: [Option<Bytes>; 2],
    /// The rows of the further columns.
    arrays: Vec<Bytes>,
}

/// Opens a data set: finds its members, and reads no image.
///
/// # Errors
/// A source that is not there, is empty, damaged, or of another layout.
pub(crate) fn open(config: &ImportConfig, runtime: &Handle) -> Result<Box<dyn Importer>, ImportError> {
    let source = Source::open(&config.source, runtime)?;
    Ok(match config.layout {
        ImportLayout::Clevr => Box::new(clevr::Clevr::open(source)?),
        ImportLayout::ClevrMasks => Box::new(clevr_masks::ClevrMasks::open(&source, config)?),
        ImportLayout::Clevrtex => Box::new(clevrtex::Clevrtex::open(source)?),
        ImportLayout::Movi => Box::new(movi::Movi::open(&source)?),
        ImportLayout::MoviDump => Box::new(movi_dump::MoviDump::open(source, config.frame_stride)?),
        ImportLayout::Ffhq => Box::new(images::Images::numbered(source)?),
        ImportLayout::Images => Box::new(images::Images::any(source)?),
        ImportLayout::Webdataset => Box::new(webdataset::WebDataset::open(source)?),
    })
}
