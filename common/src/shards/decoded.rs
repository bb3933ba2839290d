//! Rows of encoded columns as they are once decoded, kept on the host.

use super::dataset::Dataset;
use super::node_cache::{DecodedBlock, Group};
use super::{ShardError, dataset::Place};

/// Where the rows of one read lie on this host, decoded; some of them, perhaps, not yet.
pub struct DecodedRows {
    group: Group,
    places: Vec<(DecodedBlock, u64)>,
}

impl DecodedRows {
    /// Reads the row that was asked for as number `index`; false if it is not there as it was kept, and then what `into` holds means nothing.
    #[must_use]
    pub fn read(&self, index: usize, into: &mut [u8]) -> bool {
        self.places.get(index).is_some_and(|(block, row)| self.group.read_decoded(block, *row, into))
    }

    /// Keeps the row that was asked for as number `index`, where there is room for it.
    pub fn keep(&self, index: usize, data: &[u8]) {
        if let Some((block, row)) = self.places.get(index) {
            self.group.keep_decoded(block, *row, data);
        }
    }
}

impl Dataset {
    /// Keeps what callers have decoded in `group` of this host's cache.
    #[must_use]
    pub fn with_decoded_rows(self, group: Group) -> Self {
        Self { decoded: Some(group), ..self }
    }

    /// Where `rows` of `column` lie decoded on this host; none if the column is not encoded or the host keeps none.
    ///
    /// # Errors
    /// There is no such row or column.
    pub fn decoded_rows(&self, column: &str, rows: &[u64]) -> Result<Option<DecodedRows>, ShardError> {
        let (Some(group), true) = (&self.decoded, self.column(column)?.encoding.is_some()) else { return Ok(None) };
        let places = self.places(column)?;
        let places = rows.iter().map(|&row| self.decoded_place(places.rows(), row)).collect::<Result<_, _>>()?;
        Ok(Some(DecodedRows { group: group.clone(), places }))
    }

    /// Those of `rows` that nobody has decoded yet on this host.
    pub(super) fn not_decoded(&self, place: &Place<'_>, rows: &[u64]) -> Result<Vec<u64>, ShardError> {
        let Some(group) = self.decoded.as_ref().filter(|_| place.column.encoding.is_some()) else { return Ok(rows.to_vec()) };
        let mut missing = Vec::new();
        for &row in rows {
            let (block, of_block) = self.decoded_place(place, row)?;
            if !group.has_decoded(&block, of_block) {
                missing.push(row);
            }
        }
        Ok(missing)
    }

    fn decoded_place(&self, place: &Place<'_>, row: u64) -> Result<(DecodedBlock, u64), ShardError> {
        let (key, of_block) = self.locate(place, row)?;
        let rows_per_block = self.stored(place, key.0 as usize).1.rows_per_block;
        let rows = rows_per_block.min(self.manifest.shards[key.0 as usize].rows - key.3 * rows_per_block);
        Ok((DecodedBlock { key, rows, row_bytes: place.column.row_bytes() as u64 }, of_block))
    }
}
