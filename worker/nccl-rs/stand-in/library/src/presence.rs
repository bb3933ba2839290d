//! Who is there: a rank, as long as it holds the lock on the byte of the communicator's file at its own number.
//!
//! The kernel takes the lock away when the process ends, whatever ends it, and also if nobody has asked for its exit status yet.

use crate::segment::MAX_RANKS;
use crate::unique_id::{FOLDER, PREFIX};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

/// The age at which a file that nobody holds is removed.
const STALE: Duration = Duration::from_secs(60);

/// Makes `rank` be there as long as `file`, opened by nobody else, is open.
pub(crate) fn announce(file: &File, rank: usize) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock(rank, 1))).map(|_| ())
}

/// Whether `rank`, which is not the one that has opened `file`, is there.
pub(crate) fn is_there(file: &File, rank: usize) -> bool {
    is_held(file, rank, 1)
}

/// Removes what processes that died before all ranks had come have left behind.
pub(crate) fn remove_stale() {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| SystemTime::now().duration_since(time));
        let old = matches!(age, Ok(Ok(age)) if age > STALE);
        if old && File::open(entry.path()).is_ok_and(|file| !is_held(&file, 0, MAX_RANKS)) {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether somebody else holds a lock on one of these bytes. If that cannot be found out, nobody is taken for dead.
fn is_held(file: &File, start: usize, bytes: usize) -> bool {
    let mut lock = lock(start, bytes);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).is_err() || lock.l_type != libc::F_UNLCK as i16
}

/// A write lock on these bytes, for the file as it was opened: other than those of a process, it is not lost when the process closes
/// the file elsewhere.
fn lock(start: usize, bytes: usize) -> libc::flock {
    let (l_type, l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
    libc::flock { l_type, l_whence, l_start: start as i64, l_len: bytes as i64, l_pid: 0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::segment::Segment;
    use crate::unique_id::UniqueId;
    use std::fs::OpenOptions;

    #[test]
    fn files_that_nobody_holds_do_not_stay() {
        let alone = UniqueId::new().unwrap().path().unwrap();
        drop(Segment::join(alone.clone(), 0, 2).unwrap());
        assert!(!alone.exists(), "the only rank that came has gone");

        let [old, held, young] = [(); 3].map(|()| UniqueId::new().unwrap().path().unwrap());
        let rank = Segment::join(held.clone(), 1, 2).unwrap();
        File::create(&young).unwrap();
        for path in [&old, &held] {
            let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - 2 * STALE).unwrap();
        }
        remove_stale();
        assert_eq!([&old, &held, &young].map(|path| path.exists()), [false, true, true]);
        fs::remove_file(young).unwrap();
        drop(rank);
    }
}
