//! Encoded columns: rows of any size come back, other tools can read them, and damage is noticed in the bytes as in the offsets.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::storage::Store;
use crate::storage::faulty::Faults;

const ROWS_PER_SHARD: u64 = 4;

fn schema() -> Schema {
    let columns = vec![
        Column::hot("moments", DType::F16, &[3]),
        Column::cold("image", DType::U8, &[8, 8, 3]).encoded(Some(Encoding::Jpeg { quality: 90 })),
        Column::cold("mask", DType::U8, &[8, 8]).encoded(Some(Encoding::Png)),
    ];
    Schema { columns }
}

/// Bytes that depend on the row; what they mean is nothing that the format knows.
fn encoded(row: usize, size: usize) -> Vec<u8> {
    (0..size).map(|index| (row * 31 + index / 251 + index) as u8).collect()
}

/// Writes a data set whose images have these sizes, with masks of a third of them.
async fn write(store: &Store, sizes: &[usize]) -> Manifest {
    let rows = sizes.len() as u64;
    let writer = ShardWriter::open(store.clone(), schema(), json!({"kind": "test"}), rows, ROWS_PER_SHARD).await.unwrap();
    for index in 0..writer.shards() {
        let rows: Vec<usize> = writer.shard_rows(index).map(|row| row as usize).collect();
        let part = |divisor: usize| OwnedRows::Encoded(rows.iter().map(|&row| encoded(row, sizes[row] / divisor)).collect());
        let moments = OwnedRows::Fixed(rows.iter().flat_map(|&row| [row as u8; 6]).collect());
        writer.write_shard(index, &[moments, part(1), part(3)]).await.unwrap();
    }
    writer.commit().await.unwrap()
}

/// Sizes around those of blocks: empty rows, many rows in a block, rows larger than a block.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0), 1_usize..2000, 300_000_usize..500_000, Just(1 << 20), Just(3 << 20)], 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn rows_of_any_size_come_back_in_any_order(sizes in sizes(), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let store = Store::open("memory://").unwrap();
            let manifest = write(&store, &sizes).await;
            assert_eq!(manifest.version, 2);
            let dataset = Dataset::open(store, 4 << 20).await.unwrap();
            assert_eq!(dataset.manifest(), &manifest);
            let rows: Vec<u64> = picks.iter().map(|pick| pick.index(sizes.len()) as u64).collect();
            for (column, divisor) in [("image", 1), ("mask", 3)] {
                let found = dataset.read_slices(column, &rows).await.unwrap();
                let expected: Vec<_> = rows.iter().map(|&row| encoded(row as usize, sizes[row as usize] / divisor)).collect();
                assert!(found == expected, "column {column}");
                assert!(dataset.read(column, &rows).await.unwrap() == OwnedRows::Encoded(expected));
            }
        });
    }
}

#[tokio::test]
async fn stock_safetensors_reads_bytes_and_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let sizes = [900, 0, 17, 1234, 5];
    let manifest = write(&store, &sizes).await;
    let mut first = 0;
    for shard in &manifest.shards {
        let bytes = std::fs::read(folder.path().join(&shard.files[1].name)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let offsets = tensors.tensor("image.offsets").unwrap();
        assert_eq!((offsets.dtype(), offsets.shape()), (safetensors::Dtype::U64, &[shard.rows as usize + 1][..]));
        let offsets: Vec<usize> =
            offsets.data().chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()) as usize).collect();
        let images = tensors.tensor("image.bytes").unwrap();
        assert_eq!((images.dtype(), images.shape()), (safetensors::Dtype::U8, &[offsets[shard.rows as usize]][..]));
        for row in 0..shard.rows as usize {
            assert!(images.data()[offsets[row]..offsets[row + 1]] == encoded(first + row, sizes[first + row]));
        }
        assert_eq!(tensors.names().len(), 4);
        first += shard.rows as usize;
    }
    assert_eq!(first, sizes.len());
}

/// A flipped bit in any block: rows of that block, or of all the shard if it was in the offsets, fail with its name; others are read.
#[tokio::test]
async fn a_flipped_bit_is_found_in_bytes_and_offsets() {
    let store = Store::open("memory://").unwrap();
    let manifest = write(&store, &[700_000, 10, 900_000, 20, 5, 6]).await;
    let file = &manifest.shards[0].files[1];
    let blocks: usize = file.columns.iter().map(|stored| stored.crc32c.len()).sum();
    assert_eq!(blocks, 1 + 1 + 2 + 1, "offsets of both columns, two blocks of images, one of masks");
    for stored in file.columns.iter().filter(|stored| stored.name.starts_with("image")) {
        for block in 0..stored.crc32c.len() {
            let whole = store.get(&file.name).await.unwrap();
            let mut flipped = whole.to_vec();
            flipped[stored.offset as usize + if block == 0 { 0 } else { stored.block_ends[block - 1] as usize }] ^= 4;
            store.put(&file.name, flipped.into()).await.unwrap();
            let Verdict::Damaged { blocks } = verify_file(&store, &manifest, (&manifest.shards[0], 1), |_| ()).await.unwrap()
            else {
                panic!("verified")
            };
            assert_eq!((blocks.len(), &blocks[0].tensor, blocks[0].block), (1, &stored.name, block as u64));
            let dataset = Dataset::open(store.clone(), 0).await.unwrap();
            for row in 0..6 {
                let of_block = stored.block_ends.is_empty() || row / stored.rows_per_block == block as u64;
                match dataset.read_slices("image", &[row]).await {
                    Ok(_) => assert!(row >= ROWS_PER_SHARD || !of_block, "row {row} went through"),
                    Err(ShardError::Corrupt { column, block: found, .. }) => {
                        assert!(of_block && column == stored.name && found == block as u64);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            store.put(&file.name, whole).await.unwrap();
        }
    }
    let mut read = 0;
    assert_eq!(verify_file(&store, &manifest, (&manifest.shards[0], 1), |bytes| read += bytes).await.unwrap(), Verdict::Whole);
    assert_eq!(read, file.bytes);
    store.put(&file.name, vec![0; 7].into()).await.unwrap();
    let verdict = verify_file(&store, &manifest, (&manifest.shards[0], 1), |_| ()).await.unwrap();
    assert_eq!(verdict, Verdict::Resized { found: 7 });
    store.delete(&file.name).await.unwrap();
    assert_eq!(verify_file(&store, &manifest, (&manifest.shards[0], 1), |_| ()).await.unwrap(), Verdict::Missing);
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_fetched_again() {
    let (faults, store) = Faults::store();
    write(&store, &[50, 60, 70]).await;
    let dataset = Dataset::open(store, 1 << 20).await.unwrap();
    faults.flips.store(1, SeqCst);
    assert!(dataset.read_slices("image", &[2]).await.unwrap() == [encoded(2, 70)]);
    let traffic = dataset.traffic();
    assert_eq!((traffic.asked, traffic.fetched), (2, 3), "offsets, bytes, and one of them again");
    dataset.read_slices("image", &[0, 1]).await.unwrap();
    assert_eq!(dataset.traffic().since(&traffic), Traffic { asked: 2, ..Traffic::default() }, "the rest comes from memory");
}

#[tokio::test]
async fn rows_of_the_other_kind_are_refused() {
    let store = Store::open("memory://set").unwrap();
    write(&store, &[5, 6]).await;
    let dataset = Dataset::open(store.clone(), 0).await.unwrap();
    let error = dataset.read_rows("image", &[0]).await.unwrap_err().to_string();
    assert_eq!(error, "memory://set: the rows of column image are encoded as jpeg of quality 90");
    assert_eq!(dataset.read_slices("moments", &[1]).await.unwrap(), [vec![1; 6]], "fixed rows are slices too");

    let writer = ShardWriter::open(Store::open("memory://").unwrap(), schema(), json!({}), 2, 4).await.unwrap();
    let fixed = |size: usize| OwnedRows::Fixed(vec![0; size]);
    let rows = |count: usize| OwnedRows::Encoded(vec![vec![1]; count]);
    for (columns, reason) in [
        ([fixed(12), fixed(384), rows(2)], "column image needs rows encoded as jpeg of quality 90"),
        ([rows(2), rows(2), rows(2)], "column moments needs rows that are not encoded"),
        ([fixed(12), rows(2), rows(3)], "column mask needs 2 encoded rows, got 3"),
    ] {
        let error = writer.write_shard(0, &columns).await.unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error}");
    }
    let wide = Column::cold("depth", DType::F32, &[8, 8]).encoded(Some(Encoding::Png));
    let twice = [Column::cold("image.bytes", DType::U8, &[1]), schema().columns.remove(1)];
    for columns in [vec![wide], twice.to_vec()] {
        let refused = ShardWriter::open(Store::open("memory://").unwrap(), Schema { columns }, json!({}), 4, 3).await;
        assert!(matches!(refused, Err(ShardError::Schema { .. })));
    }
}
