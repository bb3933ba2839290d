//! Latents in safetensors files with the names that LightningDiT and its forks train from.

use common::shards::{DType, OwnedRows, Schema};
use safetensors::tensor::{Dtype, TensorView};

use super::Shard;
use crate::exit::Failure;

/// The columns that go into it.
pub(super) const COLUMNS: [&str; 3] = ["moments", "moments_flipped", "label"];

/// The first column that they train from and the data set lacks, and how it comes about.
pub(super) fn missing(schema: &Schema) -> Option<(&'static str, &'static str)> {
    let needed = [("moments", "encode the images first"), ("moments_flipped", "encode with data.flip = true")];
    let is_there = |name: &str| {
        schema
            .column(name)
            .is_some_and(|column| column.dtype == DType::F16 && column.shape.len() == 3 && column.shape[0].is_multiple_of(2))
    };
    needed.into_iter().find(|(name, _)| !is_there(name))
}

/// The shard's latents, f32 [N, C, h, w]: the means of the posterior; and labels, i64 [N], zeros where there are none.
pub(super) fn file(shard: &Shard) -> Result<Vec<u8>, Failure> {
    let rows = shard.rows as usize;
    let mut tensors = Vec::new();
    let mut labels = vec![0; 8 * rows];
    for (column, stored) in &shard.columns {
        let OwnedRows::Fixed(stored) = stored else { continue };
        match column.name.as_str() {
            "label" if column.dtype == DType::I64 && column.shape.is_empty() => labels.clone_from(stored),
            "label" => {}
            name => {
                let shape = [rows, column.shape[0] / 2, column.shape[1], column.shape[2]];
                let key = if name == "moments" { "latents" } else { "latents_flip" };
                tensors.push((key, shape.to_vec(), means(stored, column.row_bytes())));
            }
        }
    }
    let mut views = Vec::new();
    for (name, shape, data) in &tensors {
        views.push((*name, TensorView::new(Dtype::F32, shape.clone(), data).map_err(anyhow::Error::from)?));
    }
    views.push(("labels", TensorView::new(Dtype::I64, vec![rows], &labels).map_err(anyhow::Error::from)?));
    Ok(safetensors::serialize(views, None).map_err(anyhow::Error::from)?)
}

/// The first half of each row of f16, as f32.
fn means(rows: &[u8], row_bytes: usize) -> Vec<u8> {
    let halves = rows.chunks_exact(row_bytes).flat_map(|row| row[..row_bytes / 2].as_chunks().0);
    halves.flat_map(|value| half::f16::from_le_bytes(*value).to_f32().to_le_bytes()).collect()
}
