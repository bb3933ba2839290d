//! The cache of a host: limits in real bytes, damage, foreign files, a failing disk, and what is found again.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::shards::{Column, DType, Dataset, Schema, ShardWriter};
use crate::storage::Store;
use crate::storage::faulty::Faults;

const ROWS_PER_SHARD: u64 = 2;
/// Bytes of a row, which is a block of its own.
const ROW: usize = 1 << 20;

fn row(number: u64, salt: u8) -> Vec<u8> {
    (0..ROW).map(|index| (index / 4099) as u8 ^ (number as u8).wrapping_mul(31) ^ salt).collect()
}

/// A data set of `rows` blocks at a store that counts.
async fn written(rows: u64, salt: u8) -> (Arc<Faults>, Store) {
    let (faults, store) = Faults::store();
    let schema = Schema { columns: vec![Column::hot("moments", DType::U8, &[ROW])] };
    let writer = ShardWriter::open(store.clone(), schema, json!({"salt": salt}), rows, ROWS_PER_SHARD).await.unwrap();
    for index in 0..writer.shards() {
        writer
            .write_shard(index, &[writer.shard_rows(index).flat_map(|number| row(number, salt)).collect::<Vec<u8>>()])
            .await
            .unwrap();
    }
    writer.commit().await.unwrap();
    (faults, store)
}

/// One worker of the host; memory holds nothing.
async fn worker(store: &Store, cache: &Arc<NodeCache>) -> Dataset {
    let dataset = Dataset::open(store.clone(), 0).await.unwrap();
    let group = dataset.node_group(cache).unwrap();
    dataset.with_node_cache(group)
}

/// Reads rows and waits until what was fetched lies in the cache.
async fn read(dataset: &Dataset, salt: u8, rows: impl Iterator<Item = u64>) {
    for number in rows {
        assert!(dataset.read_rows("moments", &[number]).await.unwrap() == row(number, salt), "row {number}");
        settle(&dataset.node.as_ref().unwrap().clone()).await;
    }
}

/// Blocks are added in the background; their turns end with that.
async fn settle(group: &Group) {
    for _ in 0..2000 {
        if group.is_idle() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("blocks are still being added");
}

/// What `du` says.
pub(super) fn on_disk(path: &Path) -> u64 {
    let own = fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    own + inside.map(|entry| on_disk(&entry.path())).sum::<u64>()
}

#[tokio::test]
async fn what_one_worker_fetched_the_others_find_and_so_does_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = written(6, 0).await;
    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let workers = [worker(&store, &cache).await, worker(&store, &cache).await];
    faults.reads.store(0, SeqCst);
    for dataset in &workers {
        read(dataset, 0, 0..6).await;
    }
    assert_eq!(faults.reads.load(SeqCst), 6);
    assert_eq!([0, 1].map(|index: usize| workers[index].traffic().fetched), [6, 0]);
    drop((workers, cache));

    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let dataset = worker(&store, &cache).await;
    faults.reads.store(0, SeqCst);
    read(&dataset, 0, 0..6).await;
    assert_eq!(faults.reads.load(SeqCst), 0);
}

#[tokio::test]
async fn a_damaged_or_shortened_block_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = written(4, 0).await;
    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let dataset = worker(&store, &cache).await;
    read(&dataset, 0, 0..4).await;
    let kept = cache.folder.join(&dataset.manifest().fingerprint()[..group::NAME]).join("kept");
    let damaged = kept.join("0.0.0.1");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[ROW / 2] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::write(kept.join("1.0.0.0"), b"short").unwrap();
    faults.reads.store(0, SeqCst);
    for reads in [2, 2] {
        read(&dataset, 0, 0..4).await;
        assert_eq!(faults.reads.load(SeqCst), reads, "and then they are there again");
    }
}

/// Three epochs over more than the cache can hold, by three workers in different orders: never over the limit, always the right bytes,
/// and three quarters of the limit are found again in every epoch.
#[tokio::test]
async fn the_limit_holds_and_what_fits_is_found_in_every_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = written(24, 0).await;
    let limit = 13 << 20;
    let cache = NodeCache::open(folder.path(), limit).unwrap();
    let workers = [worker(&store, &cache).await, worker(&store, &cache).await, worker(&store, &cache).await];
    let mut fetched = Vec::new();
    for epoch in 0..3 {
        faults.reads.store(0, SeqCst);
        for number in 0..24 {
            let number = (number * 7 + epoch * 5) % 24;
            // One after the other, as workers that read the same window do.
            for dataset in &workers {
                read(dataset, 0, number..number + 1).await;
                assert!(on_disk(folder.path()) <= limit, "{} bytes", on_disk(folder.path()));
            }
        }
        fetched.push(faults.reads.load(SeqCst));
    }
    let kept = 9;
    assert_eq!(fetched, [24, 24 - kept, 24 - kept], "and the others find what one has fetched");
}

/// From a limit below one block to that of one shard: slower, never stuck, never over the limit.
#[tokio::test]
async fn the_smallest_limits_work() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = written(6, 0).await;
    for limit in [1, 4096, 1 << 20, (ROW as u64) * ROWS_PER_SHARD, 3 << 20] {
        let place = folder.path().join(limit.to_string());
        let cache = NodeCache::open(&place, limit).unwrap();
        let dataset = worker(&store, &cache).await;
        for _ in 0..2 {
            read(&dataset, 0, 0..6).await;
        }
        let blocks: u64 = on_disk(&cache.folder.join(&dataset.manifest().fingerprint()[..group::NAME]).join("kept"));
        assert!(blocks <= limit.max(4096), "{blocks} bytes of blocks with a limit of {limit}");
    }
}

#[tokio::test]
async fn another_data_set_takes_the_place_of_one_that_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 9 << 20;
    let ((old_faults, old), (new_faults, new)) = (written(6, 0).await, written(6, 7).await);
    let cache = NodeCache::open(folder.path(), limit).unwrap();
    let old_reader = worker(&old, &cache).await;
    read(&old_reader, 0, 0..6).await;
    let new_reader = worker(&new, &cache).await;
    read(&new_reader, 7, 0..6).await;
    old_faults.reads.store(0, SeqCst);
    read(&old_reader, 0, 0..6).await;
    assert_eq!(old_faults.reads.load(SeqCst), 0, "a data set that is being read keeps its place");
    drop(old_reader);
    for _ in 0..2 {
        new_faults.reads.store(0, SeqCst);
        read(&new_reader, 7, 0..6).await;
    }
    assert_eq!(new_faults.reads.load(SeqCst), 0, "one that is not makes room");
    assert!(on_disk(folder.path()) <= limit);
}

#[tokio::test]
async fn foreign_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = written(6, 0).await;
    fs::create_dir_all(folder.path().join("taken").join(FOLDER)).unwrap();
    fs::write(folder.path().join("taken").join(FOLDER).join("thesis.tex"), "years").unwrap();
    let error = NodeCache::open(&folder.path().join("taken"), 1 << 30).unwrap_err().to_string();
    assert!(error.contains("taken/lsd-blocks: holds files") && error.contains("data.cache_folder"), "{error}");

    let cache = NodeCache::open(folder.path(), 3 << 20).unwrap();
    let dataset = worker(&store, &cache).await;
    read(&dataset, 0, 0..2).await;
    let ours = cache.folder.join(&dataset.manifest().fingerprint()[..group::NAME]);
    let foreign =
        [folder.path().join("notes"), cache.folder.join("notes"), ours.join("kept/notes"), ours.join("recent/my-1.partial")];
    for path in &foreign {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "mine").unwrap();
    }
    read(&dataset, 0, 0..6).await;
    drop((dataset, cache));
    let (_, other) = written(6, 9).await;
    let cache = NodeCache::open(folder.path(), 3 << 20).unwrap();
    read(&worker(&other, &cache).await, 9, 0..6).await;
    for path in foreign {
        assert_eq!(fs::read(&path).unwrap(), b"mine", "{}", path.display());
    }
}

/// A disk that fails (here a file stands where a folder must be): reading goes on without the cache.
#[tokio::test]
async fn a_failing_disk_ends_the_cache_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = written(4, 0).await;
    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let dataset = worker(&store, &cache).await;
    fs::write(cache.folder.join(&dataset.manifest().fingerprint()[..group::NAME]).join("kept"), "").unwrap();
    faults.reads.store(0, SeqCst);
    for reads in [4, 8] {
        read(&dataset, 0, 0..4).await;
        assert_eq!(faults.reads.load(SeqCst), reads);
    }
    assert!(!cache.adds());
    assert!(
        NodeCache::open(&folder.path().join("lsd-blocks/CACHEDIR.TAG"), 1)
            .is_err_and(|error| matches!(error, NodeCacheError::Io { .. }))
    );
}

/// What a killed process leaves: half a block, books that count it, and books that are no books.
#[tokio::test]
async fn what_a_killed_process_left_is_cleared_away_and_counted_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (faults, store) = written(4, 0).await;
    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let dataset = worker(&store, &cache).await;
    read(&dataset, 0, 0..4).await;
    let kept = cache.folder.join(&dataset.manifest().fingerprint()[..group::NAME]).join("kept");
    let half = kept.join(format!("0.0.0.7-0123456789abcdef-{ROW}.partial"));
    fs::write(&half, [1; 99]).unwrap();
    let books = cache.folder.join("books");
    let whole = fs::read(&books).unwrap();
    drop((dataset, cache));
    for left in [&whole[..], &whole[..20], b""] {
        fs::write(&books, left).unwrap();
        let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
        let dataset = worker(&store, &cache).await;
        faults.reads.store(0, SeqCst);
        read(&dataset, 0, 0..4).await;
        assert_eq!(faults.reads.load(SeqCst), 0);
        cache.entered();
        assert!(!half.exists());
        assert_eq!(fs::read(&books).unwrap(), whole);
    }
}
