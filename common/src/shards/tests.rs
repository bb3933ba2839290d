//! The data set format: what is written comes back, is the same whoever wrote it, and damage is noticed and named.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::storage::faulty::Faults;
use crate::storage::{StorageError, Store};

/// Two rows of `image` fill a block; all columns together exercise hot, cold, and the order by element size.
fn schema() -> Schema {
    let columns = vec![
        Column::hot("label", DType::U8, &[]),
        Column::hot("moments", DType::F16, &[2, 3]),
        Column::cold("image", DType::U8, &[500, 1000]),
        Column::cold("attributes", DType::F32, &[2]),
    ];
    Schema { columns }
}

/// The bytes of row `row` of column number `column`.
fn row(column: usize, row: u64) -> Vec<u8> {
    let seed = row * 31 + column as u64 * 7;
    (0..schema().columns[column].row_bytes() as u64).map(|index| (seed + index / 97 + index) as u8).collect()
}

fn shard(writer: &ShardWriter, index: u32) -> Vec<Vec<u8>> {
    (0..4).map(|column| writer.shard_rows(index).flat_map(|number| row(column, number)).collect()).collect()
}

async fn writer(store: &Store, rows: u64) -> Result<ShardWriter, ShardError> {
    ShardWriter::open(store.clone(), schema(), json!({"kind": "test", "scaling": 0.18215}), rows, 3).await
}

/// Writes a data set of `rows` rows in shards of 3, going on where an earlier writer stopped.
async fn write(store: &Store, rows: u64) -> Result<Manifest, ShardError> {
    let writer = writer(store, rows).await?;
    let finished: Vec<_> = writer.finished_shards().await?.iter().map(|shard| shard.index).collect();
    for index in (0..writer.shards()).filter(|index| !finished.contains(index)) {
        writer.write_shard(index, &shard(&writer, index)).await?;
    }
    writer.commit().await
}

async fn objects(store: &Store) -> BTreeMap<String, Bytes> {
    let mut objects = BTreeMap::new();
    for entry in store.list("").await.unwrap() {
        objects.insert(entry.name.clone(), store.get(&entry.name).await.unwrap());
    }
    objects
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn rows_come_back_in_any_order(count in 1_u64..11, picks in prop::collection::vec(any::<prop::sample::Index>(), 0..30), cache in 0..3_usize) {
        runtime().block_on(async {
            let store = Store::open("memory://").unwrap();
            let manifest = write(&store, count).await.unwrap();
            let dataset = Dataset::open(store, cache << 20).await.unwrap();
            assert_eq!(dataset.manifest(), &manifest);
            assert_eq!((dataset.rows(), manifest.shard_rows().len() as u64), (count, count.div_ceil(3)));
            let rows: Vec<u64> = picks.iter().map(|pick| pick.index(count as usize) as u64).collect();
            for (index, column) in schema().columns.iter().enumerate() {
                let expected: Vec<u8> = rows.iter().flat_map(|&number| row(index, number)).collect();
                assert!(dataset.read_rows(&column.name, &rows).await.unwrap() == expected, "column {}", column.name);
            }
        });
    }
}

#[tokio::test]
async fn stock_safetensors_reads_a_shard() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let manifest = write(&store, 5).await.unwrap();
    let mut seen = Vec::new();
    for shard in &manifest.shards {
        for file in &shard.files {
            let bytes = std::fs::read(folder.path().join(&file.name)).unwrap();
            assert_eq!(file.blake3, blake3::hash(&bytes).to_hex().as_str());
            assert_eq!(file.columns[0].offset % 4096, 0);
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in tensors.tensors() {
                let column = schema().columns.iter().position(|column| column.name == name).unwrap();
                let first = u64::from(shard.index) * 3;
                let expected: Vec<u8> = (first..first + shard.rows).flat_map(|number| row(column, number)).collect();
                assert!(tensor.data() == expected, "{name}");
                assert_eq!(tensor.shape()[0] as u64, shard.rows);
                assert_eq!(tensor.shape()[1..], schema().columns[column].shape);
                seen.push(name);
            }
        }
    }
    assert_eq!(seen.len(), 2 * 4);
}

/// Data sets from before there were encoded columns, and the checkpoints that record their fingerprints, stay what they are.
#[tokio::test]
async fn a_data_set_without_encoded_columns_is_written_as_ever() {
    let manifest = write(&Store::open("memory://").unwrap(), 8).await.unwrap();
    assert_eq!(manifest.version, 1);
    assert_eq!(manifest.fingerprint(), "a0ce09a786396e7948a8b7f0bfb14a4c5e44991ef7f887d9bd1f4da7aa744392");
}

/// One worker in order; three workers, interleaved; one that dies at every possible write and starts again: the same bytes under the
/// same names, and nothing else.
#[tokio::test]
async fn the_result_depends_on_nobody() {
    let alone = Store::open("memory://").unwrap();
    let manifest = write(&alone, 8).await.unwrap();

    let shared = Store::open("memory://").unwrap();
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(writer(&shared, 8).await.unwrap());
    }
    for (worker, index) in [(2, 2), (0, 0), (1, 1)] {
        workers[worker].write_shard(index, &shard(&workers[worker], index)).await.unwrap();
    }
    assert_eq!(workers[1].commit().await.unwrap(), manifest);
    assert_eq!(workers[1].commit().await.unwrap().fingerprint(), manifest.fingerprint(), "committing again changes nothing");
    assert!(objects(&shared).await == objects(&alone).await);

    let (faults, unlucky) = Faults::store();
    let mut crashes = 0;
    loop {
        faults.crash_after(3, crashes % 2 == 1);
        match write(&unlucky, 8).await {
            Ok(finished) => break assert_eq!(finished, manifest),
            Err(error) => assert!(matches!(error, ShardError::Storage(StorageError::Backend { .. })), "{error}"),
        }
        crashes += 1;
        assert!(crashes < 20, "no progress");
    }
    assert!(crashes >= 3);
    assert!(objects(&unlucky).await == objects(&alone).await);
    assert!(writer(&unlucky, 8).await.unwrap().committed().is_some());
}

#[tokio::test]
async fn a_finished_shard_with_a_damaged_file_or_entry_is_written_again() {
    let store = Store::open("memory://").unwrap();
    let writer = writer(&store, 9).await.unwrap();
    let mut entries = Vec::new();
    for index in 0..3 {
        entries.push(writer.write_shard(index, &shard(&writer, index)).await.unwrap());
    }
    assert_eq!(writer.finished_shards().await.unwrap(), entries);
    store.put(&entries[0].files[1].name, Bytes::from_static(b"short")).await.unwrap();
    store.put("00002.entry.json", Bytes::from_static(b"{")).await.unwrap();
    assert_eq!(writer.finished_shards().await.unwrap(), entries[1..2]);
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, ShardError::Unfinished { missing: 2, shards: 3, first: 0, .. }), "{error}");
    assert_eq!(existing(&store).await.unwrap(), None);
}

#[tokio::test]
async fn another_data_set_is_not_overwritten() {
    let store = Store::open("memory://set").unwrap();
    let open = |schema: Schema, metadata, rows, per_shard| ShardWriter::open(store.clone(), schema, metadata, rows, per_shard);
    let first = open(schema(), json!({"seed": 1}), 9, 3).await.unwrap();
    first.write_shard(0, &shard(&first, 0)).await.unwrap();
    let error = open(schema(), json!({"seed": 2}), 9, 3).await.err().unwrap().to_string();
    assert!(error.contains("memory://set") && error.contains("an unfinished data set"), "{error}");
    for index in 1..3 {
        first.write_shard(index, &shard(&first, index)).await.unwrap();
    }
    first.commit().await.unwrap();
    let before = objects(&store).await;
    let mut narrow = schema();
    narrow.columns.pop();
    for (schema, metadata, rows, per_shard, difference) in [
        (schema(), json!({"seed": 2}), 9, 3, "seed (1, not 2)"),
        (schema(), json!({"seed": 1, "textured": true}), 9, 3, "textured (nothing, not true)"),
        (schema(), json!({"seed": 1}), 8, 3, "number of rows (9, not 8)"),
        (schema(), json!({"seed": 1}), 9, 9, "number of rows per shard (3, not 9)"),
        (narrow, json!({"seed": 1}), 9, 3, "schema"),
    ] {
        let error = open(schema, metadata, rows, per_shard).await.err().unwrap().to_string();
        assert!(error.contains(&format!("a complete data set with another {difference};")), "{error}");
    }
    assert!(objects(&store).await == before);
}

/// A flipped byte at either end of every block of every column: rows of that block fail with its name, all other rows are read.
#[tokio::test]
async fn a_flipped_byte_is_found_in_its_block() {
    let store = Store::open("memory://").unwrap();
    let manifest = write(&store, 6).await.unwrap();
    let mut blocks = 0;
    for (number, shard) in manifest.shards.iter().enumerate() {
        for (file, stored) in shard.files.iter().flat_map(|file| file.columns.iter().map(move |column| (file, column))) {
            let row_bytes = schema().column(&stored.name).unwrap().row_bytes() as u64;
            for (index, rows) in (0..shard.rows).collect::<Vec<_>>().chunks(stored.rows_per_block as usize).enumerate() {
                let begin = stored.offset + rows[0] * row_bytes;
                for position in [begin, begin + rows.len() as u64 * row_bytes - 1] {
                    let whole = store.get(&file.name).await.unwrap();
                    let mut flipped = whole.to_vec();
                    flipped[position as usize] ^= 0x10;
                    store.put(&file.name, flipped.into()).await.unwrap();
                    let dataset = Dataset::open(store.clone(), 1 << 20).await.unwrap();
                    for row in 0..6 {
                        let damaged = row / 3 == number as u64 && rows.contains(&(row % 3));
                        match dataset.read_rows(&stored.name, &[row]).await {
                            Ok(_) => assert!(!damaged, "row {row} of {} went through", stored.name),
                            Err(ShardError::Corrupt { object, column, block, offset, expected, found }) => {
                                assert!(damaged && object.ends_with(&file.name) && column == stored.name);
                                assert_eq!((block, offset, expected), (index as u64, begin, stored.crc32c[index]));
                                assert_ne!(expected, found);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    store.put(&file.name, whole).await.unwrap();
                }
                blocks += 1;
            }
        }
    }
    assert_eq!(blocks, 2 * (1 + 1 + 2 + 1));
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_fetched_again() {
    let (faults, store) = Faults::store();
    write(&store, 3).await.unwrap();
    let dataset = Dataset::open(store, 1 << 20).await.unwrap();
    faults.flips.store(1, SeqCst);
    assert!(dataset.read_rows("image", &[1]).await.unwrap() == row(2, 1));
    faults.flips.store(2, SeqCst);
    assert!(matches!(dataset.read_rows("moments", &[1]).await, Err(ShardError::Corrupt { .. })));
    assert!(dataset.read_rows("moments", &[1]).await.unwrap() == row(1, 1), "an error is not cached");
}

#[tokio::test]
async fn concurrent_readers_share_fetches() {
    let (faults, store) = Faults::store();
    write(&store, 9).await.unwrap();
    let dataset = Arc::new(Dataset::open(store, 16 << 20).await.unwrap());
    faults.reads.store(0, SeqCst);
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let dataset = dataset.clone();
            tokio::spawn(async move { dataset.read_rows("image", &[8, 0, 1, 3, 5]).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().unwrap() == [8, 0, 1, 3, 5].into_iter().flat_map(|number| row(2, number)).collect::<Vec<u8>>());
    }
    assert_eq!(faults.reads.load(SeqCst), 4, "rows 0 and 1 lie in one block, the others in one each");
}

#[tokio::test]
async fn shards_that_are_taken_back_leave_nothing() {
    let store = Store::open("memory://").unwrap();
    let writer = writer(&store, 9).await.unwrap();
    let mut written = Vec::new();
    for index in [0, 2, 1] {
        written.push(writer.write_shard(index, &shard(&writer, index)).await.unwrap());
    }
    writer.discard(&written[1..]).await.unwrap();
    assert_eq!(writer.finished_shards().await.unwrap(), written[..1]);
    writer.discard(&written[..1]).await.unwrap();
    assert!(objects(&store).await.is_empty());
}

#[tokio::test]
async fn an_unusable_data_set_is_refused_before_anything_is_read() {
    let store = Store::open("memory://set").unwrap();
    let refused = || async { Dataset::open(store.clone(), 0).await.err().unwrap().to_string() };
    assert_eq!(refused().await, "memory://set: no data set here (dataset.json is missing); run the job that writes it");
    let unfinished = writer(&store, 6).await.unwrap();
    let entry = unfinished.write_shard(1, &shard(&unfinished, 1)).await.unwrap();
    assert!(refused().await.contains("half-written (1 shards are finished"), "{}", refused().await);
    let manifest = write(&store, 6).await.unwrap();
    let file = manifest.shards[1].files[0].name.clone();
    assert_eq!(entry.files[0].name, file);

    let whole = store.get(&file).await.unwrap();
    store.put(&file, whole.slice(..whole.len() - 1)).await.unwrap();
    assert!(refused().await.starts_with(&format!("memory://set/{file}: expected {} bytes", whole.len())), "{}", refused().await);
    store.delete(&file).await.unwrap();
    assert!(refused().await.starts_with(&format!("memory://set/{file}: this file of the data set is missing")));
    store.put(&file, whole).await.unwrap();
    Dataset::open(store.clone(), 0).await.unwrap();

    let document = store.get(MANIFEST).await.unwrap();
    store.put(MANIFEST, document.slice(..document.len() / 2)).await.unwrap();
    assert_eq!(refused().await, "memory://set/dataset.json: unusable data set manifest: truncated or not written by this program");
    let (newer, _) = crate::sealed::seal(&Manifest { version: VERSION + 1, ..manifest }).unwrap();
    store.put(MANIFEST, newer).await.unwrap();
    assert!(refused().await.contains("it has format version 3 and this program reads version 2"), "{}", refused().await);
}

#[tokio::test]
async fn wrong_requests_name_what_is_wrong() {
    let store = Store::open("memory://set").unwrap();
    write(&store, 4).await.unwrap();
    let dataset = Dataset::open(store.clone(), 0).await.unwrap();
    let error = dataset.read_rows("latents", &[0]).await.unwrap_err().to_string();
    assert_eq!(error, "memory://set: no column latents; this data set has label, moments, image, attributes");
    let error = dataset.read_rows("label", &[0, 4]).await.unwrap_err().to_string();
    assert_eq!(error, "memory://set: no row 4; this data set has 4 rows");

    let writer = writer(&Store::open("memory://").unwrap(), 4).await.unwrap();
    let mut columns = shard(&writer, 1);
    assert!(matches!(writer.write_shard(2, &columns).await, Err(ShardError::Rows { shard: 2, .. })));
    columns[1].pop();
    let error = writer.write_shard(1, &columns).await.unwrap_err().to_string();
    assert!(error.contains("column moments needs 12 bytes for 1 rows, got 11"), "{error}");
    for columns in
        [vec![], vec![Column::hot("a", DType::U8, &[0])], vec![Column::hot("a", DType::U8, &[]), Column::cold("a", DType::U8, &[])]]
    {
        let refused = ShardWriter::open(Store::open("memory://").unwrap(), Schema { columns }, json!({}), 4, 3).await;
        assert!(matches!(refused, Err(ShardError::Schema { .. })));
    }
}
