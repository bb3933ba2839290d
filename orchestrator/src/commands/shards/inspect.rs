//! `orchestrator shards inspect`: columns, sizes and origin of a data set, by its manifest alone.

use std::process::ExitCode;

use common::shards::{Column, Manifest};
use serde_json::{Value, json};

use super::{Split, open};
use crate::commands::checkpoints::table::{Table, plain, size};
use crate::commands::output::{colours, print};
use crate::exit::Failure;

/// Prints a table per split.
pub(super) async fn run(url: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let splits = open(url).await?;
    if as_json {
        let splits: Vec<Value> = splits.iter().map(row).collect();
        print(&format!("{:#}\n", json!({"data_sets": splits})))?;
    } else {
        print(&splits.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a column in all shards.
fn stored_bytes(manifest: &Manifest, column: &Column) -> u64 {
    if column.encoding.is_none() {
        return manifest.rows() * column.row_bytes() as u64;
    }
    let (bytes, offsets) = (format!("{}.bytes", column.name), format!("{}.offsets", column.name));
    let of_shard = |shard: &common::shards::ShardEntry| {
        let tensors = shard.files.iter().flat_map(|file| &file.columns);
        tensors.fold(0, |sum, tensor| match &tensor.name {
            name if *name == bytes => sum + tensor.block_ends.last().copied().unwrap_or(0),
            name if *name == offsets => sum + 8 * (shard.rows + 1),
            _ => sum,
        })
    };
    manifest.shards.iter().map(of_shard).sum()
}

fn encoding(column: &Column) -> String {
    column.encoding.map_or_else(|| "raw".to_owned(), |encoding| encoding.to_string())
}

fn text(split: &Split) -> String {
    let (manifest, url) = (&split.manifest, split.store.url());
    let bytes: u64 = manifest.shards.iter().flat_map(|shard| &shard.files).map(|file| file.bytes).sum();
    let mut table = Table::new(["<column", "<type", "<shape", "<stored as", "size", "a row", "<file"]);
    for column in &manifest.schema.columns {
        let stored = stored_bytes(manifest, column);
        let file = if column.cold { "cold" } else { "hot" };
        let row = size(stored.checked_div(manifest.rows()).unwrap_or(0));
        let shape = format!("{:?}", column.shape);
        let kind = format!("{:?}", column.dtype).to_lowercase();
        table.push([&column.name, &kind, &shape, &encoding(column), &size(stored), &row, file].map(plain));
    }
    let fields = manifest.metadata.as_object().into_iter().flatten();
    let about: String = fields.map(|(key, value)| format!("  {key} = {value}\n")).collect();
    format!(
        "{url}: {} rows in {} shards of {}, {}, format {}\nfingerprint {}\n{about}{}",
        manifest.rows(),
        manifest.shards.len(),
        manifest.rows_per_shard,
        size(bytes),
        manifest.version,
        manifest.fingerprint(),
        table.text(colours())
    )
}

fn row(split: &Split) -> Value {
    let manifest = &split.manifest;
    let column = |column: &Column| {
        json!({"name": column.name, "dtype": column.dtype, "shape": column.shape, "cold": column.cold, "encoding": column.encoding,
            "bytes": stored_bytes(manifest, column)})
    };
    let columns: Vec<Value> = manifest.schema.columns.iter().map(column).collect();
    json!({"url": split.store.url(), "rows": manifest.rows(), "shards": manifest.shards.len(), "version": manifest.version,
        "rows_per_shard": manifest.rows_per_shard, "fingerprint": manifest.fingerprint(), "metadata": manifest.metadata, "columns": columns})
}
