//! Who fetches a block while others wait for it: a lock on one byte of a file, which goes with the process that holds it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const FILE: &str = "turns";
/// The wait between two tries: short beside a fetch.
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// A worker that hangs with a turn in its hands must not hang the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// The right to fetch one block, until dropped.
pub(super) struct Turn {
    _file: File,
}

/// Waits for the turn to fetch `block` of the cache in `folder`. None where the file system knows no such locks or somebody takes
/// suspiciously long: then everybody fetches for himself.
pub(super) async fn take(folder: &Path, block: &str) -> Option<Turn> {
    let mut digest = [0; 8];
    digest.copy_from_slice(&blake3::hash(block.as_bytes()).as_bytes()[..8]);
    // Two blocks on one byte would wait for each other and be fetched all the same.
    let byte = i64::from_le_bytes(digest) & (i64::MAX >> 1);
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(FILE)).ok()?;
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    let since = Instant::now();
    loop {
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => return Some(Turn { _file: file }),
            Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) if since.elapsed() < PATIENCE => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(error) => {
                tracing::debug!("no turn to fetch {block}: {error}");
                return None;
            }
        }
    }
}
