//! What the rows of a data set are made of: fixed-size columns.

use serde::{Deserialize, Serialize};

use super::ShardError;

/// Element type of a column, under the name that safetensors uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DType {
    /// Unsigned bytes: images, masks.
    U8,
    /// Half precision: posterior moments.
    F16,
    /// Single precision.
    F32,
    /// Signed 64-bit integers.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// A column: one tensor `[rows, ..shape]` per shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name of the tensor.
    pub name: String,
    /// Element type; elements are little-endian.
    pub dtype: DType,
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// Whether it lies in the sibling file, away from what every training step reads.
    pub cold: bool,
}

impl Column {
    /// A column that every training step reads.
    pub fn hot(name: &str, dtype: DType, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), cold: false }
    }

    /// A column for evaluation and pictures, kept in a file of its own.
    pub fn cold(name: &str, dtype: DType, shape: &[usize]) -> Self {
        Self { cold: true, ..Self::hot(name, dtype, shape) }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.shape.iter().fold(self.dtype.size(), |bytes, side| bytes.saturating_mul(*side))
    }
}

/// The columns of a data set, in the order in which a writer passes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The columns.
    pub columns: Vec<Column>,
}

impl Schema {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The files of a shard: hot or cold, and the indices of the columns inside, in their order on disk. Wide elements come first, so
    /// that each tensor begins at a multiple of its element size without a gap, which the format does not allow.
    pub(super) fn files(&self) -> Vec<(bool, Vec<usize>)> {
        let indices = |cold: bool| {
            let mut indices: Vec<_> = (0..self.columns.len()).filter(|&index| self.columns[index].cold == cold).collect();
            indices.sort_by_key(|&index| std::cmp::Reverse(self.columns[index].dtype.size()));
            (cold, indices)
        };
        [indices(false), indices(true)].into_iter().filter(|(_, columns)| !columns.is_empty()).collect()
    }

    /// Names are unique and usable, and every row holds something.
    pub(super) fn check(&self) -> Result<(), ShardError> {
        let refused = |reason: String| Err(ShardError::Schema { reason });
        if self.columns.is_empty() {
            return refused("there are no columns".into());
        }
        for (index, column) in self.columns.iter().enumerate() {
            let name = &column.name;
            if name.is_empty() || name == "__metadata__" {
                return refused(format!("{name:?} cannot name a column"));
            }
            if self.columns[..index].iter().any(|other| other.name == *name) {
                return refused(format!("two columns are called {name}"));
            }
            if column.row_bytes() == 0 || column.row_bytes() > u32::MAX as usize {
                return refused(format!("a row of column {name} with shape {:?} is empty or exceeds 4 GiB", column.shape));
            }
        }
        Ok(())
    }
}
