//! Does to a store all that data sets and checkpoints do, and says what did not go as it must: `store_probe URL`.
//!
//! The URL has to be an empty place; credentials come from the environment, as those of the programs themselves.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use bytes::Bytes;
use common::storage::{StorageError, Store};

type Error = Box<dyn std::error::Error>;

/// An object that goes up in parts.
const LARGE: usize = (40 << 20) + 12345;
/// More objects than one page of a listing.
const MANY: usize = 1100;
/// Requests at the same time.
const TOGETHER: usize = 32;

fn main() -> ExitCode {
    let url = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(probe(&url))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{url}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error in words unless `right`.
fn must(right: bool, what: &str) -> Result<(), Error> {
    if right { Ok(()) } else { Err(what.into()) }
}

async fn probe(url: &str) -> Result<(), Error> {
    let store = Store::open(url)?;
    must(store.list("").await?.is_empty(), "the place is not empty")?;
    whole_objects(&store).await?;
    println!("whole objects: put, replaced, read, measured, deleted twice");
    parts(&store).await?;
    println!("{LARGE} bytes in parts, and ranges of them");
    let guarded = new_objects(&store).await?;
    println!(
        "new objects: {}",
        if guarded { "two different ones cannot have one name" } else { "the store does not know the condition" }
    );
    many(&store).await?;
    println!("{MANY} objects listed by folder, and deleted");
    must(store.list("").await?.is_empty(), "something is left")
}

async fn whole_objects(store: &Store) -> Result<(), Error> {
    must(store.size("a/b").await?.is_none(), "an object that is not there has a size")?;
    let missing = store.get("a/b").await;
    must(missing.as_ref().is_err_and(StorageError::is_not_found), &format!("reading what is not there gives {missing:?}"))?;
    for text in ["first", "second, and longer"] {
        store.put("a/b", text.into()).await?;
        must(store.get("a/b").await? == text, "an object is not what was put")?;
        must(store.size("a/b").await? == Some(text.len() as u64), "an object has the wrong size")?;
    }
    store.put("empty", Bytes::new()).await?;
    must(store.get("empty").await?.is_empty(), "an empty object is not empty")?;
    for name in ["a/b", "empty", "a/b"] {
        store.delete(name).await?;
    }
    Ok(())
}

async fn parts(store: &Store) -> Result<(), Error> {
    let bytes: Bytes = (0..LARGE).map(|index| ((index * index) >> 7) as u8).collect();
    store.put("large", bytes.clone()).await?;
    must(store.get("large").await? == bytes, "a large object is not what was put")?;
    let end = LARGE as u64;
    for range in [0..1, 5 << 20..(5 << 20) + 70_000, end - 3..end] {
        let part = store.get_range("large", range.clone()).await?;
        must(part == bytes[range.start as usize..range.end as usize], &format!("the bytes {range:?} are others"))?;
    }
    for range in [end - 3..end + 1, end + 5..end + 6] {
        let beyond = store.get_range("large", range.clone()).await;
        must(
            matches!(beyond, Err(StorageError::Size { found, .. }) if found == end),
            &format!("the bytes {range:?} give {beyond:?}"),
        )?;
    }
    Ok(store.delete("large").await?)
}

/// Whether the store keeps an object from taking the name of another one.
async fn new_objects(store: &Store) -> Result<bool, Error> {
    store.put_new("new", "mine".into()).await?;
    store.put_new("new", "mine".into()).await?;
    let guarded = store.put_new("new", "other".into()).await.is_err();
    must(guarded == (store.get("new").await? == "mine"), "a refused object has replaced one, or an accepted one has not")?;
    store.delete("new").await?;
    Ok(guarded)
}

async fn many(store: &Store) -> Result<(), Error> {
    let names: Vec<String> = (0..MANY).map(|index| format!("many/{index:05}.json")).collect();
    for names in names.chunks(TOGETHER) {
        futures::future::try_join_all(names.iter().map(|name| store.put(name, name.clone().into()))).await?;
    }
    store.put("many-others/one", "1".into()).await?;
    let found = store.list("many").await?;
    must(found.iter().map(|entry| &entry.name).eq(&names), &format!("{} of {MANY} are listed", found.len()))?;
    must(found.iter().all(|entry| entry.size == entry.name.len() as u64), "a listing has wrong sizes")?;
    for names in names.chunks(TOGETHER) {
        futures::future::try_join_all(names.iter().map(|name| store.delete(name))).await?;
    }
    Ok(store.delete("many-others/one").await?)
}
