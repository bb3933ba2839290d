//! Rows of a data set as tensors: decoded on threads of their own, straight into the tensor's memory.

use super::DataError;
use super::codec::decode;
use bytes::Bytes;
use common::shards::{Column, DType, Dataset, DecodedRows};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use tch::{Kind, Tensor};
use tokio::sync::oneshot;
use torch_shim::memory::{Unfinished, concatenated};

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
    let Some(stored) = dataset.manifest().schema.column(column) else {
        // Says which columns there are.
        return Err(dataset.read_slices(column, rows).await.err().map_or(DataError::NotDecoded, DataError::from));
    };
    let shape: Vec<i64> = std::iter::once(rows.len()).chain(stored.shape.iter().copied()).map(|side| side as i64).collect();
    if stored.encoding.is_none() {
        let slices = dataset.read_slices(column, rows).await?;
        return Ok(concatenated(&shape, kind(stored.dtype), slices.iter().map(|row| &row[..]))?);
    }
    let tensor = Unfinished::zeros(&shape, kind(stored.dtype))?;
    let mut decoding = Decoding { tensor, url: dataset.url().to_owned(), column: stored.clone(), rows: rows.to_vec() };
    let mut missing: Vec<usize> = (0..rows.len()).collect();
    let kept = dataset.decoded_rows(column, rows)?.map(Arc::new);
    if let Some(kept) = kept.clone() {
        (decoding, missing) = on_decoders(move || {
            let missing = decoding.read(&kept);
            (decoding, missing)
        })
        .await?;
    }
    if !missing.is_empty() {
        let wanted: Vec<u64> = missing.iter().map(|&index| rows[index]).collect();
        let encoded = missing.into_iter().zip(dataset.read_slices(column, &wanted).await?).collect();
        decoding = on_decoders(move || decoding.decode(encoded, kept.as_deref()).map(|()| decoding)).await??;
    }
    Ok(decoding.tensor.finish())
}

/// What `work` answers, by the decoders.
async fn on_decoders<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DataError> {
    let (done, answer) = oneshot::channel();
    match &*DECODERS {
        // Nobody waits any more where the loader was dropped.
        Ok(pool) => pool.spawn(move || drop(done.send(work()))),
        Err(_) => return Ok(work()),
    }
    answer.await.map_err(|_| DataError::NotDecoded)
}

/// Encoded rows that become a tensor.
struct Decoding {
    tensor: Unfinished,
    url: String,
    column: Column,
    rows: Vec<u64>,
}

impl Decoding {
    /// Reads what this host has decoded before; the rows that it has not, as numbers of those asked for.
    fn read(&mut self, kept: &DecodedRows) -> Vec<usize> {
        let rows = self.tensor.bytes().par_chunks_exact_mut(self.column.row_bytes()).enumerate();
        rows.filter_map(|(index, pixels)| (!kept.read(index, pixels)).then_some(index)).collect()
    }

    /// Decodes the rows that are given, and keeps them.
    fn decode(&mut self, encoded: HashMap<usize, Bytes>, kept: Option<&DecodedRows>) -> Result<(), DataError> {
        let Self { tensor, url, column, rows } = self;
        let chunks = tensor.bytes().par_chunks_exact_mut(column.row_bytes()).enumerate();
        chunks.filter_map(|(index, pixels)| Some((index, encoded.get(&index)?, pixels))).try_for_each(|(index, bytes, pixels)| {
            decode(column, bytes, pixels).map_err(|source| DataError::Image { url: url.clone(), row: rows[index], source })?;
            if let Some(kept) = kept {
                kept.keep(index, pixels);
            }
            Ok(())
        })
    }
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
