//! What a folder holds, to show that something changed or did not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Path below the folder -> content digest (`None` for a folder).
pub type Snapshot = BTreeMap<String, Option<blake3::Hash>>;

/// Everything below `folder`.
pub fn snapshot(folder: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    add(folder, folder, &mut found);
    found
}

fn add(root: &Path, folder: &Path, found: &mut Snapshot) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if path.is_dir() {
            found.insert(name, None);
            add(root, &path, found);
        } else {
            found.insert(name, Some(blake3::hash(&fs::read(&path).unwrap())));
        }
    }
}
