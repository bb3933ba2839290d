//! What the rows of a data set are made of: columns of fixed size, and columns of images each of which is encoded for itself.

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
    /// Unsigned 64-bit integers: where encoded rows begin.
    U64,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }
}

/// What each row of a column is encoded as. Nothing here knows how: rows are bytes until a worker decodes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// PNG, without loss.
    Png,
    /// JPEG.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// WebP, with loss.
    Webp {
        /// 1 to 100.
        quality: u8,
    },
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Png => f.write_str("png"),
            Self::Jpeg { quality } => write!(f, "jpeg of quality {quality}"),
            Self::Webp { quality } => write!(f, "webp of quality {quality}"),
        }
    }
}

/// A column: one tensor `[rows, ..shape]` per shard, or two where rows are encoded and so differ in size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name of the tensor.
    pub name: String,
    /// Element type, of the decoded row where there is an encoding; elements are little-endian.
    pub dtype: DType,
    /// Shape of one row, decoded.
    pub shape: Vec<usize>,
    /// Whether it lies in the sibling file, away from what every training step reads.
    pub cold: bool,
    /// How the rows are encoded; absent where they lie as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

impl Column {
    /// A column that every training step reads.
    pub fn hot(name: &str, dtype: DType, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), cold: false, encoding: None }
    }

    /// A column for evaluation and pictures, kept in a file of its own.
    pub fn cold(name: &str, dtype: DType, shape: &[usize]) -> Self {
        Self { cold: true, ..Self::hot(name, dtype, shape) }
    }

    /// The same with rows that are encoded, or are not.
    #[must_use]
    pub fn encoded(self, encoding: Option<Encoding>) -> Self {
        Self { encoding, ..self }
    }

    /// Bytes of one row, decoded.
    pub fn row_bytes(&self) -> usize {
        self.shape.iter().fold(self.dtype.size(), |bytes, side| bytes.saturating_mul(*side))
    }

    /// The tensors that hold it in each shard.
    pub(super) fn parts(&self) -> Vec<Part> {
        match self.encoding {
            None => vec![Part::Rows],
            Some(_) => vec![Part::Offsets, Part::Bytes],
        }
    }
}

/// What a tensor of a shard holds of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `NAME`, [rows, ..shape]: rows as they are.
    Rows,
    /// `NAME.offsets`, u64 [rows + 1]: where each encoded row begins in `NAME.bytes`, and where the last one ends.
    Offsets,
    /// `NAME.bytes`, u8 [total]: the encoded rows one after the other.
    Bytes,
}

impl Part {
    /// Name of the tensor of `column`.
    pub(super) fn name(self, column: &Column) -> String {
        match self {
            Self::Rows => column.name.clone(),
            Self::Offsets => format!("{}.offsets", column.name),
            Self::Bytes => format!("{}.bytes", column.name),
        }
    }

    /// Element type of the tensor of `column`.
    pub(super) fn dtype(self, column: &Column) -> DType {
        match self {
            Self::Rows => column.dtype,
            Self::Offsets => DType::U64,
            Self::Bytes => DType::U8,
        }
    }
}

/// A file of every shard.
pub(super) struct FileSchema {
    /// Whether it is the sibling of the one that training reads.
    pub(super) cold: bool,
    /// Its tensors in their order on disk: the index of the column, and which part of it.
    pub(super) tensors: Vec<(usize, Part)>,
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

    /// Whether rows of any column are encoded.
    pub(super) fn is_encoded(&self) -> bool {
        self.columns.iter().any(|column| column.encoding.is_some())
    }

    /// The files of a shard, hot and cold. Wide elements come first, so that each tensor begins at a multiple of its element size without
    /// a gap, which the format does not allow.
    pub(super) fn files(&self) -> Vec<FileSchema> {
        let file = |cold: bool| {
            let of_file = self.columns.iter().enumerate().filter(|(_, column)| column.cold == cold);
            let mut tensors: Vec<_> =
                of_file.flat_map(|(index, column)| column.parts().into_iter().map(move |part| (index, part))).collect();
            tensors.sort_by_key(|&(index, part)| std::cmp::Reverse(part.dtype(&self.columns[index]).size()));
            FileSchema { cold, tensors }
        };
        [file(false), file(true)].into_iter().filter(|file| !file.tensors.is_empty()).collect()
    }

    /// Names are unique and usable, and every row holds something.
    pub(super) fn check(&self) -> Result<(), ShardError> {
        let refused = |reason: String| Err(ShardError::Schema { reason });
        if self.columns.is_empty() {
            return refused("there are no columns".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for column in &self.columns {
            let name = &column.name;
            if name.is_empty() || name == "__metadata__" {
                return refused(format!("{name:?} cannot name a column"));
            }
            for tensor in column.parts().into_iter().map(|part| part.name(column)) {
                if let Some(tensor) = names.replace(tensor) {
                    return refused(format!("two columns are called {tensor}"));
                }
            }
            if column.row_bytes() == 0 || column.row_bytes() > u32::MAX as usize {
                return refused(format!("a row of column {name} with shape {:?} is empty or exceeds 4 GiB", column.shape));
            }
            if column.encoding.is_some() && column.dtype != DType::U8 {
                return refused(format!("column {name} holds {:?}, and only bytes can be encoded as images", column.dtype));
            }
        }
        Ok(())
    }
}
