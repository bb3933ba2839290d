//! One split of a data set as rows of shards.

use super::rows::RowFormat;
use super::{ImportError, Importer, split};
use crate::scenes::Split;
use bytes::Bytes;
use common::config::Config;
use common::config::ImportConfig;
use common::shards::{Column, OwnedRows};
use rayon::prelude::*;
use std::ops::Range;

/// Images that are decoded at a time, while the bytes of as many more are fetched. A record of MOVi has about 30 MB, one of CLEVR with
/// masks 3 MB, so this is what bounds the memory beside the shard.
const CHUNK: usize = 32;

/// The rows of one split. Row r is frame `(r % frames) * stride` of its member `r / frames`.
pub(crate) struct Part<'i> {
    importer: &'i dyn Importer,
    members: Vec<usize>,
    /// Rows per member.
    frames: usize,
    stride: usize,
    format: RowFormat,
}

impl<'i> Part<'i> {
    /// Finds the members of a split.
    ///
    /// # Errors
    /// A split without any.
    pub(crate) fn of(
        importer: &'i dyn Importer,
        config: &Config,
        import: &ImportConfig,
        split: Split,
    ) -> Result<Self, ImportError> {
        let members = split::members(importer.members(), import, split, &importer.url())?;
        let (stride, contents) = (import.frame_stride, importer.contents(members[0]));
        let format = RowFormat::new(contents, &config.data, import);
        Ok(Self { importer, members, frames: importer.frames().div_ceil(stride), stride, format })
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> u64 {
        (self.members.len() * self.frames) as u64
    }

    /// Columns of the rows.
    pub(crate) fn format(&self) -> &RowFormat {
        &self.format
    }

    /// Digest of the names of the members: another data set has others.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for &member in &self.members {
            hasher.update(self.importer.members()[member].name.as_bytes()).update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The columns of `rows`, on the threads of the pool that this is called in. `progress` hears how many rows are done, and says
    /// whether to go on; if not, there are no columns.
    ///
    /// # Errors
    /// The first sample that cannot be read, named.
    pub(crate) fn columns(
        &self,
        rows: Range<u64>,
        mut progress: impl FnMut(u64) -> bool + Send,
    ) -> Result<Option<Vec<OwnedRows>>, ImportError> {
        let rows = rows.start as usize..rows.end as usize;
        let empty = |column: &Column| match column.encoding {
            Some(_) => OwnedRows::Encoded(Vec::new()),
            None => OwnedRows::Fixed(Vec::new()),
        };
        let mut columns: Vec<OwnedRows> = self.format.schema().columns.iter().map(empty).collect();
        let per_chunk = CHUNK.div_ceil(self.frames);
        let chunks: Vec<Range<usize>> = (rows.start / self.frames..rows.end.div_ceil(self.frames))
            .step_by(per_chunk)
            .map(|first| first..(first + per_chunk).min(rows.end.div_ceil(self.frames)))
            .collect();
        let fetch =
            |chunk: Option<&Range<usize>>| chunk.map_or(Ok(Vec::new()), |chunk| self.importer.fetch(&self.members[chunk.clone()]));
        let mut fetched = fetch(chunks.first())?;
        for (at, chunk) in chunks.iter().enumerate() {
            let here = (chunk.start * self.frames).max(rows.start)..(chunk.end * self.frames).min(rows.end);
            let decode = || self.decode(here.clone(), chunk.start, &fetched);
            let (decoded, next) = rayon::join(decode, || fetch(chunks.get(at + 1)));
            let decoded = decoded?;
            for row in &decoded {
                columns.iter_mut().zip(row).for_each(|(column, bytes)| match column {
                    OwnedRows::Fixed(rows) => rows.extend_from_slice(bytes),
                    OwnedRows::Encoded(rows) => rows.push(bytes.to_vec()),
                });
            }
            if !progress(decoded.len() as u64) {
                return Ok(None);
            }
            fetched = next?;
        }
        Ok(Some(columns))
    }

    /// The rows `rows`, whose members are fetched, from the split's member `first` on.
    fn decode(&self, rows: Range<usize>, first: usize, fetched: &[Vec<Bytes>]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        let row = |row: usize| {
            let (member, frame) = (row / self.frames, row % self.frames * self.stride);
            let sample = self.importer.decode(self.members[member], &fetched[member - first], frame)?;
            self.format.row(&sample)
        };
        rows.into_par_iter().map(row).collect()
    }
}
