//! How long a resume takes before it has its first batch: epoch 100 of ten million samples.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::{Duration, Instant};

use serde_json::json;

use super::manifest::existing;
use super::*;
use crate::sampler::{SampleOrder, rank_positions};
use crate::storage::Store;

const ROWS: u64 = 10_000_000;
const ROWS_PER_SHARD: u64 = 1024;
const BATCH: u64 = 32;

/// Latents of 4 x 32 x 32 and encoded images of 20 KiB. All bytes are zero, so that no disk is needed for them.
fn schema() -> Schema {
    let image = Column::cold("image", DType::U8, &[256, 256, 3]).encoded(Some(Encoding::Jpeg { quality: 90 }));
    Schema { columns: vec![Column::hot("moments", DType::F16, &[8, 32, 16]), image] }
}

fn shard(index: u32) -> ShardEntry {
    let rows = ROWS_PER_SHARD.min(ROWS - u64::from(index) * ROWS_PER_SHARD);
    let (row_bytes, block_rows, encoded) = (8192, 128, 20 << 10);
    let digests = |bytes: u64, block: u64| {
        (0..bytes.div_ceil(block)).map(|number| crc32c::crc32c(&vec![0; block.min(bytes - number * block) as usize])).collect()
    };
    let stored = |name: &str, offset, rows_per_block, crc32c, block_ends| StoredColumn {
        name: name.into(),
        offset,
        rows_per_block,
        crc32c,
        block_ends,
    };
    let (table, total) = (8 * (rows + 1), rows * encoded);
    let ends: Vec<u64> = (1..=total.div_ceil(50 * encoded)).map(|block| (block * 50 * encoded).min(total)).collect();
    let hot = stored("moments", 4096, block_rows, digests(rows * row_bytes, block_rows * row_bytes), vec![]);
    let offsets = stored("image.offsets", 4096, rows + 1, digests(table, table), vec![]);
    let bytes = stored("image.bytes", 4096 + table, 50, digests(total, 50 * encoded), ends);
    let file = |name: String, bytes, columns| ShardFile { name, bytes, blake3: "0".repeat(64), columns };
    let files = vec![
        file(format!("{index:05}-0000000000000000.safetensors"), 4096 + rows * row_bytes, vec![hot]),
        file(format!("{index:05}-0000000000000000.cold.safetensors"), 4096 + table + total, vec![offsets, bytes]),
    ];
    ShardEntry { index, rows, files }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_batch_of_epoch_100_of_ten_million_samples_is_there_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let (first, last) = (shard(0), (ROWS.div_ceil(ROWS_PER_SHARD) - 1) as u32);
    let renamed = |index: u32| {
        let name = |file: &ShardFile| ShardFile { name: file.name.replacen("00000", &format!("{index:05}"), 1), ..file.clone() };
        ShardEntry { index, files: first.files.iter().map(name).collect(), ..first.clone() }
    };
    let shards: Vec<_> = (0..last).map(renamed).chain([shard(last)]).collect();
    for file in shards.iter().flat_map(|shard| &shard.files) {
        File::create(folder.path().join(&file.name)).unwrap().set_len(file.bytes).unwrap();
    }
    let metadata = json!({"kind": "zeros"});
    let (settings, fingerprint) = (String::new(), String::new());
    let mut manifest =
        Manifest { version: VERSION, settings, schema: schema(), rows_per_shard: ROWS_PER_SHARD, metadata, shards, fingerprint };
    manifest.write(&store).await.unwrap();

    let since = Instant::now();
    let read = existing(&store).await.unwrap().unwrap();
    let manifest_took = since.elapsed();
    assert_eq!(read, manifest);
    let since = Instant::now();
    let dataset = Dataset::open(store.clone(), 64 << 20).await.unwrap();
    let opened = since.elapsed();
    let step = 100 * ROWS / BATCH + 12_345;
    let order = SampleOrder::new(1, &dataset.manifest().shard_rows(), 8).unwrap();
    let rows = order.samples(rank_positions(step, BATCH, 0, 1));
    let ordered = since.elapsed();
    assert_eq!(dataset.read_slices("moments", &rows).await.unwrap(), vec![vec![0; 8192]; BATCH as usize]);
    let all = since.elapsed();
    let bytes = store.size(MANIFEST).await.unwrap().unwrap() as f64 / f64::from(1 << 20);
    println!(
        "{ROWS} samples in {} shards, manifest of {bytes:.1} MiB (read in {manifest_took:.0?}): opened in {opened:.0?}, order known after \
         {ordered:.0?}, batch of {} blocks there after {all:.0?}",
        dataset.manifest().shards.len(),
        dataset.traffic().fetched
    );
    // Room for a busy machine; what is printed is the figure.
    assert!(all < Duration::from_secs(2), "{all:?}");
}
