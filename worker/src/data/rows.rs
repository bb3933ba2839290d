//! Rows of a data set as tensors: decoded on threads of their own, straight into the tensor's memory.

use super::DataError;
use super::codec::decode;
use bytes::Bytes;
use common::shards::{Column, DType, Dataset};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::sync::LazyLock;
use tch::{Kind, Tensor};
use tokio::sync::oneshot;
use torch_shim::memory::filled;

/// As many threads as a tensor operation may use: what the launcher gives to each worker.
static DECODERS: LazyLock<Result<ThreadPool, rayon::ThreadPoolBuildError>> = LazyLock::new(|| {
    let threads = tch::get_num_threads().max(1) as usize;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("decoder-{index}"));
    pool.panic_handler(|_| tracing::error!("a decoder panicked")).build()
});

/// `rows` of `column`, [B, ..shape] on the CPU, in the order asked for.
///
/// # Errors
/// Data that cannot be fetched, are damaged, or are not what the column says.
pub async fn read_tensor(dataset: &Dataset, column: &str, rows: &[u64]) -> Result<Tensor, DataError> {
    let slices = dataset.read_slices(column, rows).await?;
    let Some(column) = dataset.manifest().schema.column(column) else { return Err(DataError::NotDecoded) };
    if column.encoding.is_none() {
        return tensor(column, slices.len(), |memory| {
            for (row, slice) in memory.chunks_exact_mut(column.row_bytes()).zip(&slices) {
                row.copy_from_slice(slice);
            }
            Ok(())
        });
    }
    let work = Work { url: dataset.url().to_owned(), column: column.clone(), rows: rows.to_vec(), slices };
    let (done, decoded) = oneshot::channel();
    match &*DECODERS {
        // Nobody waits any more where the loader was dropped.
        Ok(pool) => pool.spawn(move || drop(done.send(work.decoded()))),
        Err(_) => return work.decoded(),
    }
    decoded.await.map_err(|_| DataError::NotDecoded)?
}

/// Rows on their way through the decoders.
struct Work {
    url: String,
    column: Column,
    rows: Vec<u64>,
    slices: Vec<Bytes>,
}

impl Work {
    /// All rows, by all decoders.
    fn decoded(&self) -> Result<Tensor, DataError> {
        let row_bytes = self.column.row_bytes();
        tensor(&self.column, self.slices.len(), |memory| {
            let rows = memory.par_chunks_exact_mut(row_bytes).zip(&self.slices).zip(&self.rows);
            rows.try_for_each(|((pixels, bytes), &row)| {
                let failed = |source| DataError::Image { url: self.url.clone(), row, source };
                decode(&self.column, bytes, pixels).map_err(failed)
            })
        })
    }
}

fn tensor(column: &Column, rows: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), DataError>) -> Result<Tensor, DataError> {
    let shape: Vec<i64> = std::iter::once(rows).chain(column.shape.iter().copied()).map(|side| side as i64).collect();
    filled(&shape, kind(column.dtype), fill)
}

fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::U8 => Kind::Uint8,
        DType::F16 => Kind::Half,
        DType::F32 => Kind::Float,
        // Tensors know no unsigned ones of that width.
        DType::I64 | DType::U64 => Kind::Int64,
    }
}
