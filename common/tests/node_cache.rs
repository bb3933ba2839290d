//! The cache of a host among real processes: one fetch per block, however many ask, and a process that is killed in the middle of its work
//! leaves a cache that the next ones use and that keeps its limit.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::shards::{Column, DType, Dataset, NodeCache, Schema, ShardWriter};
use common::storage::Store;
use serde_json::json;

/// Bytes of a row, which is a block of its own.
const ROW: usize = 1 << 20;
const ROWS: u64 = 24;
/// What a process of the test is told: the folder, the limit of the cache in MiB, and how often it reads everything.
const TASK: &str = "NODE_CACHE_TEST_TASK";

fn row(number: u64) -> Vec<u8> {
    (0..ROW).map(|index| (index / 4099) as u8 ^ (number as u8).wrapping_mul(31)).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn write(folder: &Path) {
    let store = Store::open(folder.join("data").to_str().unwrap()).unwrap();
    let schema = Schema { columns: vec![Column::hot("moments", DType::U8, &[ROW])] };
    let writer = ShardWriter::open(store, schema, json!({}), ROWS, 4).await.unwrap();
    for index in 0..writer.shards() {
        writer.write_shard(index, &[writer.shard_rows(index).flat_map(row).collect::<Vec<u8>>()]).await.unwrap();
    }
    writer.commit().await.unwrap();
}

/// Starts a process that reads the data set through the cache: [`child`] below.
fn start(folder: &Path, mib: u64, epochs: u64) -> Child {
    let task = format!("{}\n{mib}\n{epochs}", folder.display());
    let arguments = ["--exact", "child", "--ignored", "--nocapture"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).env(TASK, task).stdout(Stdio::piped()).spawn().unwrap()
}

/// Blocks that the process has fetched, when it has ended well.
fn fetched(child: Child) -> u64 {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().find_map(|line| line.split_once("fetched ")).unwrap().1.parse().unwrap()
}

#[test]
#[ignore = "a process of the other tests"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [folder, mib, epochs] = task.lines().collect::<Vec<_>>()[..] else { panic!("{task}") };
    runtime().block_on(async {
        let folder = Path::new(folder);
        let store = Store::open(folder.join("data").to_str().unwrap()).unwrap();
        let cache = NodeCache::open(&folder.join("cache"), mib.parse::<u64>().unwrap() << 20).unwrap();
        let dataset = Dataset::open(store, 0).await.unwrap();
        let group = dataset.node_group(&cache).unwrap();
        let dataset = dataset.with_node_cache(group);
        for epoch in 0..epochs.parse().unwrap() {
            for number in 0..ROWS {
                let number = (number * 7 + epoch * 5) % ROWS;
                assert!(dataset.read_rows("moments", &[number]).await.unwrap() == row(number), "row {number}");
                println!("read {number}");
            }
        }
        println!("fetched {}", dataset.traffic().fetched);
    });
}

fn on_disk(path: &Path) -> u64 {
    let own = std::fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten();
    own + inside.map(|entry| on_disk(&entry.path())).sum::<u64>()
}

#[test]
fn four_processes_at_once_fetch_every_block_once() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(write(folder.path()));
    let processes: Vec<_> = (0..4).map(|_| start(folder.path(), 1024, 2)).collect();
    let fetched: Vec<u64> = processes.into_iter().map(fetched).collect();
    assert_eq!(fetched.iter().sum::<u64>(), ROWS, "{fetched:?}");
}

#[test]
fn processes_killed_amid_their_work_leave_a_usable_cache_within_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(write(folder.path()));
    let (cache, limit) = (folder.path().join("cache"), 17 << 20);
    for kill_after in [1, 3, 5, 8, 13, 21] {
        let mut processes = [start(folder.path(), 17, 1000), start(folder.path(), 17, 1000)];
        let lines = BufReader::new(processes[0].stdout.take().unwrap()).lines();
        let read = lines.map(Result::unwrap).filter(|line| line.contains("read "));
        assert_eq!(read.take(kill_after).count(), kill_after, "it ended before it was killed");
        for process in &mut processes {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert!(on_disk(&cache) <= limit, "{} bytes after {kill_after} rows", on_disk(&cache));
    }
    let kept = 12;
    assert!(fetched(start(folder.path(), 17, 1)) >= ROWS - kept - 4);
    let second = fetched(start(folder.path(), 17, 1));
    assert!(second <= ROWS - kept, "the part that stays is found: {second} of {ROWS} fetched");
    assert!(on_disk(&cache) <= limit);
    let left: Vec<_> = walk(&cache).into_iter().filter(|path| path.ends_with("partial")).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// The paths of all files below.
fn walk(path: &Path) -> Vec<String> {
    let inside: Vec<_> = std::fs::read_dir(path).into_iter().flatten().flatten().collect();
    if inside.is_empty() { vec![path.display().to_string()] } else { inside.iter().flat_map(|entry| walk(&entry.path())).collect() }
}
