//! What a local folder needs beyond the object store's interface: absolute paths, and the traces of interrupted writes.

use std::io;
use std::path::{Component, Path, PathBuf};

use nix::libc::{EACCES, ENOTDIR, EROFS};
pub(super) use nix::libc::{EDQUOT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM};

/// What the system says of places that are closed to this user, that nobody may write, or that are below a file.
pub(super) const CLOSED: [i32; 3] = [EACCES, EROFS, ENOTDIR];

/// Makes the entries of a folder survive a power cut.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Makes a folder and those above it, so that they survive a power cut.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = folder.parent().ok_or(error)?;
            create_folder(above)?;
            create_folder(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => folder.parent().map_or(Ok(()), sync),
    }
}

/// The path from the root, whether or not it exists. `..` is resolved as the operating system would, through symbolic links.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if !path.components().any(|part| part == Component::ParentDir) {
        return Ok(path);
    }
    let mut existing = path.as_path();
    loop {
        match existing.canonicalize() {
            Ok(base) => {
                let missing = path.strip_prefix(existing).unwrap_or(Path::new(""));
                if missing.components().any(|part| part == Component::ParentDir) {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "'..' after a folder that does not exist"));
                }
                return Ok(base.join(missing));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match existing.parent() {
                Some(parent) => existing = parent,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

/// Whether the last segment of a name is that of an unfinished write: anything, `#`, digits.
pub(super) fn is_unfinished(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes the folders that `name` was in, from the innermost outwards, as long as they are empty and inside `root`.
pub(super) fn remove_empty_parents(root: &Path, name: &str) {
    let path = root.join(name);
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != root) {
        if std::fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Names, relative to `root`, of the unfinished writes of the object `name`.
pub(super) fn staged(root: &Path, name: &str) -> Vec<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| Some(Path::new(folder).join(entry.file_name()).to_str()?.to_owned()));
    names.filter(|staged| is_unfinished(staged) && staged.rsplit_once('#').is_some_and(|(object, _)| object == name)).collect()
}

/// Names, relative to `root`, of the unfinished writes in `folder` and below; sorted.
pub(super) fn unfinished(root: &Path, folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            names.extend(unfinished(root, &path));
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && is_unfinished(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names
}
