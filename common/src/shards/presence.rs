//! Whether all files of a data set are there, and of the size that its manifest says.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::{Manifest, ShardError};
use crate::storage::Store;

/// All files of the data set are there and have their sizes.
pub(super) fn check(store: &Store, manifest: &Manifest, found: &HashMap<String, u64>) -> Result<(), ShardError> {
    for file in manifest.shards.iter().flat_map(|shard| &shard.files) {
        let object = || store.name_url(&file.name);
        match found.get(&file.name) {
            None => return Err(ShardError::FileMissing { object: object() }),
            Some(&found) if found != file.bytes => {
                return Err(ShardError::FileSize { object: object(), expected: file.bytes, found });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The sizes of all objects by name. A local folder is read directly: a store asks much more about each of its files, which for ten thousand
/// shards is half a second.
pub(super) async fn sizes(store: &Store) -> Result<HashMap<String, u64>, ShardError> {
    if let Some(folder) = store.local_path()
        && let Ok(Ok(found)) = tokio::task::spawn_blocking(move || local_sizes(&folder)).await
    {
        return Ok(found);
    }
    Ok(store.list("").await?.into_iter().map(|entry| (entry.name, entry.size)).collect())
}

fn local_sizes(folder: &Path) -> io::Result<HashMap<String, u64>> {
    let size = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), std::fs::metadata(entry.path())?.len()))
    };
    std::fs::read_dir(folder)?.map(size).collect()
}
