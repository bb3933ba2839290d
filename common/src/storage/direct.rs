//! Large files of a local folder, past the page cache where the file system can do that (`O_DIRECT`).
//!
//! A checkpoint is written once and hardly ever read. Through the page cache it costs a copy, pushes out the data that training reads, and
//! waits for memory that has to be found first, which on busy or virtual machines is slower than the disk.
//!
//! Memory that begins at a block's border ([`aligned`]) is written from where it lies, other memory by way of a buffer.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::O_DIRECT;
use tokio::task::{JoinHandle, spawn_blocking};

use super::local;

/// What addresses, lengths and offsets have to be multiples of, for a file to be written from where it lies in memory.
pub const BLOCK: usize = 4096;
/// Bytes per write.
const BUFFER: usize = 4 << 20;
/// Bytes that are copied and then looked at while they are in the processor's cache.
const STRIDE: usize = 128 << 10;
/// How often a folder is made that another process clears away as empty.
const ATTEMPTS: usize = 3;

/// Memory that begins at a block's border.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    size: usize,
    filled: usize,
}

impl Buffer {
    /// For files of `length` bytes.
    fn for_files_of(length: usize) -> Self {
        let size = length.next_multiple_of(BLOCK).min(BUFFER);
        let memory = vec![0; size + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, size, filled: 0 }
    }

    fn room(&self) -> usize {
        self.size - self.filled
    }

    /// Takes over `bytes`, for which there is room, and shows them to `seen`.
    fn fill(&mut self, bytes: &[u8], seen: &mut impl FnMut(&[u8])) {
        for stride in bytes.chunks(STRIDE) {
            let first = self.start + self.filled;
            let target = &mut self.memory[first..first + stride.len()];
            target.copy_from_slice(stride);
            seen(target);
            self.filled += stride.len();
        }
    }

    /// What it holds, up to the next block's border.
    fn blocks(&mut self) -> &[u8] {
        let end = self.start + self.filled;
        let padded = self.start + self.filled.next_multiple_of(BLOCK);
        self.memory[end..padded].fill(0);
        &self.memory[self.start..padded]
    }
}

/// What is written at once: whole blocks, but for the last of a file.
enum Load {
    Copied(Buffer),
    Lent(Bytes),
}

impl Load {
    fn blocks(&mut self) -> &[u8] {
        match self {
            Self::Copied(buffer) => buffer.blocks(),
            Self::Lent(bytes) => bytes,
        }
    }
}

/// A file under the name of an unfinished write, which goes away with this unless it was published.
struct Staged {
    path: PathBuf,
    file: Arc<File>,
    published: bool,
}

impl Staged {
    fn create(target: &Path) -> io::Result<Self> {
        for number in 1_u32.. {
            let path = PathBuf::from(format!("{}#{number}", target.display()));
            let open = |flags| OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&path);
            let opened = match open(O_DIRECT) {
                Err(error) if is_not_for_this_file_system(&error) => open(0),
                opened => opened,
            };
            match opened {
                Ok(file) => return Ok(Self { path, file: Arc::new(file), published: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// In a folder that may have to be made first.
    fn create_below(target: &Path) -> io::Result<Self> {
        let mut attempts_left = ATTEMPTS;
        loop {
            attempts_left -= 1;
            match Self::create(target) {
                Err(error) if error.kind() == ErrorKind::NotFound && attempts_left > 0 => {
                    target.parent().map_or(Ok(()), local::create_folder)?;
                }
                created => return created,
            }
        }
    }

    /// Writes a load behind what was written before, which it comes back from.
    fn write(&self, mut load: Load) -> JoinHandle<io::Result<Load>> {
        let file = self.file.clone();
        spawn_blocking(move || {
            let mut writer = &*file;
            match writer.write_all(load.blocks()) {
                Err(error) if is_not_for_this_file_system(&error) => {
                    fcntl(&*file, FcntlArg::F_SETFL(OFlag::empty()))?;
                    writer.write_all(load.blocks())?;
                }
                written => written?,
            }
            Ok(load)
        })
    }

    /// Cuts it to its length and gives it its name, durably.
    fn publish(mut self, length: u64, target: &Path) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.published = true;
        target.parent().map_or(Ok(()), local::sync)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// No direct writes at all, or only of larger blocks.
fn is_not_for_this_file_system(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINVAL as i32)
}

/// A file to which one load is written while the next is made ready.
struct Sink {
    staged: Staged,
    /// Of the whole file.
    length: usize,
    /// What is not written yet.
    buffer: Option<Buffer>,
    writing: Option<JoinHandle<io::Result<Load>>>,
}

impl Sink {
    /// Writes `piece` behind what came before: what can be lent as it lies, the rest by way of the buffer.
    async fn add(&mut self, mut piece: Bytes, seen: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while !piece.is_empty() {
            let lent = self.lendable(&piece);
            if lent > 0 {
                self.flush().await?;
                let now = piece.split_to(lent);
                self.write(Load::Lent(now.clone())).await?;
                seen(&now);
                continue;
            }
            let buffer = self.buffer.get_or_insert_with(|| Buffer::for_files_of(self.length));
            buffer.fill(&piece.split_to(buffer.room().min(piece.len())), seen);
            if buffer.room() == 0 {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// How many of the first bytes of `piece` are whole blocks, in memory and in the file.
    fn lendable(&self, piece: &Bytes) -> usize {
        let before = self.buffer.as_ref().map_or(0, |buffer| buffer.filled);
        let fits = before.is_multiple_of(BLOCK) && piece.as_ptr().addr().is_multiple_of(BLOCK);
        if fits { BUFFER.min(piece.len() - piece.len() % BLOCK) } else { 0 }
    }

    /// Writes what the buffer holds.
    async fn flush(&mut self) -> io::Result<()> {
        match self.buffer.take_if(|buffer| buffer.filled > 0) {
            Some(full) => self.write(Load::Copied(full)).await,
            None => Ok(()),
        }
    }

    /// Begins to write `load` when the one before is written.
    async fn write(&mut self, load: Load) -> io::Result<()> {
        self.wait().await?;
        self.writing = Some(self.staged.write(load));
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        if let Load::Copied(buffer) = joined(writing).await? {
            self.buffer.get_or_insert(Buffer { filled: 0, ..buffer });
        }
        Ok(())
    }

    async fn end(mut self) -> io::Result<Staged> {
        self.wait().await?;
        Ok(self.staged)
    }
}

/// Writes `pieces` one after the other to the file `target`, replacing an older one at once or not at all. When this returns, the file
/// survives a power cut. `seen` is shown every byte once and in order, while those before it are on their way.
pub(super) async fn put(target: PathBuf, pieces: &[Bytes], seen: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let length = pieces.iter().map(Bytes::len).sum();
    let path = target.clone();
    let staged = joined(spawn_blocking(move || Staged::create_below(&path))).await?;
    let mut sink = Sink { staged, length, buffer: None, writing: None };
    for piece in pieces {
        sink.add(piece.clone(), seen).await?;
    }
    sink.flush().await?;
    let staged = sink.end().await?;
    joined(spawn_blocking(move || staged.publish(length as u64, &target))).await
}

/// Memory for `length` bytes that a local folder can write from where it lies. It keeps its place as long as it is not made larger.
pub fn aligned(length: usize) -> BytesMut {
    let mut memory = BytesMut::zeroed(length + BLOCK);
    memory.advance(memory.as_ptr().align_offset(BLOCK).min(BLOCK));
    memory.truncate(length);
    memory
}

/// The bytes `range` of the file `path`; fewer if it ends before.
pub(super) async fn get_range(path: PathBuf, range: Range<u64>) -> io::Result<Bytes> {
    joined(spawn_blocking(move || {
        let file = open(&path)?;
        let first = range.start - range.start % BLOCK as u64;
        let length = (range.end - first) as usize;
        let mut memory = vec![0; length.next_multiple_of(BLOCK) + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let end = start + length.next_multiple_of(BLOCK);
        let mut filled = 0;
        while filled < length {
            let count = read_at(&file, &mut memory[start + filled..end], first + filled as u64)?;
            filled += count;
            // Only at its end does a file give less than whole blocks.
            if count == 0 || count % BLOCK != 0 {
                break;
            }
        }
        let skipped = (range.start - first) as usize;
        let filled = filled.clamp(skipped, length);
        Ok(Bytes::from(memory).slice(start + skipped..start + filled))
    }))
    .await
}

fn open(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    match open(O_DIRECT) {
        Err(error) if is_not_for_this_file_system(&error) => open(0),
        opened => opened,
    }
}

fn read_at(file: &File, blocks: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.read_at(blocks, offset) {
        Err(error) if is_not_for_this_file_system(&error) => {
            fcntl(file, FcntlArg::F_SETFL(OFlag::empty()))?;
            file.read_at(blocks, offset)
        }
        read => read,
    }
}

async fn joined<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
    task.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::panic::AssertUnwindSafe;

    fn pieces(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|&size| (0..size).map(|index| (index % 251) as u8).collect::<Vec<_>>().into()).collect()
    }

    fn in_blocks(piece: &Bytes) -> Bytes {
        let mut memory = aligned(piece.len());
        memory.copy_from_slice(piece);
        assert!(memory.as_ptr().addr().is_multiple_of(BLOCK));
        let lent = memory.freeze();
        let back = lent.try_into_mut().unwrap();
        assert!(back.as_ptr().addr().is_multiple_of(BLOCK), "it keeps its place when it has been lent");
        back.freeze()
    }

    /// Sizes around the borders of blocks and buffers, on the disk of the system's temporary files and in memory.
    #[tokio::test]
    async fn files_hold_the_pieces_in_order_and_every_byte_was_seen_once() {
        let cases: [&[usize]; 8] = [
            &[],
            &[0, 1],
            &[BLOCK, 1],
            &[BUFFER],
            &[100, BUFFER - 100, 7],
            &[BUFFER + 1, BUFFER * 2 - 1, 3 * BLOCK + 17],
            &[BLOCK, 3 * BUFFER + 100],
            &[BUFFER - BLOCK, BUFFER, 2 * BLOCK + 1, BUFFER],
        ];
        let memory = Path::new("/dev/shm");
        for root in [std::env::temp_dir().as_path(), memory].into_iter().filter(|root| root.is_dir()) {
            let folder = tempfile::tempdir_in(root).unwrap();
            let target = folder.path().join("new/folder/file");
            for sizes in cases {
                let (pieces, mut seen) = (pieces(sizes), Vec::new());
                put(target.clone(), &pieces, &mut |bytes| seen.extend_from_slice(bytes)).await.unwrap();
                let whole = pieces.concat();
                assert!(std::fs::read(&target).unwrap() == whole && seen == whole, "{sizes:?} in {}", root.display());
                assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
                // The same out of memory that can be written as it lies.
                let (lent, mut seen) = (pieces.iter().map(in_blocks).collect::<Vec<_>>(), Vec::new());
                put(target.clone(), &lent, &mut |bytes| seen.extend_from_slice(bytes)).await.unwrap();
                assert!(std::fs::read(&target).unwrap() == whole && seen == whole, "{sizes:?} in blocks in {}", root.display());
                for range in [0..whole.len(), 1..whole.len() + 1, BLOCK..BLOCK + 10, whole.len() + 9..whole.len() + 10] {
                    let expected = &whole[range.start.min(whole.len())..range.end.min(whole.len())];
                    let found = get_range(target.clone(), range.start as u64..range.end as u64).await.unwrap();
                    assert!(found == expected, "{range:?} of {sizes:?} in {}", root.display());
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_written_to_its_end_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let writing = async {
            let mut strides = 0;
            let mut seen = |_: &[u8]| {
                strides += 1;
                assert!(strides < 40, "so far and no further");
            };
            put(target, &pieces(&[3 * BUFFER]), &mut seen).await
        };
        assert!(AssertUnwindSafe(writing).catch_unwind().await.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
