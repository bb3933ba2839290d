//! The memory that the ranks of a communicator share: a file that all of them have mapped.

use crate::bell::Bell;
use crate::failure::Failure;
use crate::presence;
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The most ranks that there is room for.
pub(crate) const MAX_RANKS: usize = 64;

/// The most bytes that each rank brings to one step of an operation.
pub(crate) const CHUNK: usize = 1 << 20;

/// Where the chunks begin: first that of the result, then one per rank.
const CHUNKS_AT: usize = 16 << 10;

/// Bytes of a file, of which the chunks of ranks that do not exist take no memory.
const BYTES: usize = CHUNKS_AT + CHUNK * (MAX_RANKS + 1);

/// How often a rank that sleeps looks whether the others still live.
const LOOK: Duration = Duration::from_millis(50);

/// How often a rank looks again before it sleeps: a microsecond or two, in which a rank on another core may get done. It does not yield:
/// on a busy machine that costs a time slice, where who is woken from sleep runs at once.
const LOOKS: u32 = 100;

/// The beginning of a segment. All zeros, as in a new file, is the state before the first rank comes.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) bell: Bell,
    /// The world size, set by whoever comes first.
    world: AtomicU32,
    /// How many ranks have come.
    joined: AtomicU32,
    /// One more than the rank that has given up first.
    aborted: AtomicU32,
    pub(crate) ranks: [Rank; MAX_RANKS],
}

/// What a rank tells the others, in a cache line of its own.
#[repr(C, align(64))]
pub(crate) struct Rank {
    joined: AtomicU32,
    left: AtomicU32,
    pub(crate) finalized: AtomicU32,
    /// The operation that it is in: kind, root and data type, and the number of elements.
    pub(crate) call: AtomicU64,
    pub(crate) elements: AtomicU64,
    /// How many steps' chunks it has brought.
    pub(crate) brought: AtomicU64,
    /// In how many steps it needs no chunk of the others any more.
    pub(crate) used: AtomicU64,
}

const _: () = assert!(size_of::<Header>() <= CHUNKS_AT);

/// A rank's mapping of the shared memory.
pub(crate) struct Segment {
    start: NonNull<c_void>,
    file: File,
    path: PathBuf,
    rank: usize,
    world: usize,
}

// SAFETY: the header is made of atomics; the chunks are only touched by whoever holds the communicator's state.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Comes as `rank` of `world` to the segment at `path`, which whoever comes first creates and whoever comes last unlinks.
    pub(crate) fn join(path: PathBuf, rank: usize, world: usize) -> Result<Self, Failure> {
        let what = path.display().to_string();
        let fail = |error: std::io::Error| Failure::system(&what, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(fail)?;
        file.set_len(BYTES as u64).map_err(fail)?;
        presence::announce(&file, rank).map_err(|error| match error {
            Errno::EAGAIN | Errno::EACCES => Failure::usage(format!("there is a rank {rank} already")),
            error => Failure::system(&what, error),
        })?;
        // Taken now, so that a full /dev/shm is an error here and not a fatal signal later.
        for (from, bytes) in [(0, CHUNKS_AT + CHUNK), (chunk_of(rank), CHUNK)] {
            posix_fallocate(&file, from as i64, bytes as i64).map_err(|error| Failure::system(&what, error))?;
        }
        let (protection, length) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, NonZeroUsize::MIN.saturating_add(BYTES - 1));
        // SAFETY: new memory at an address that the kernel chooses; the file is never made shorter.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) };
        let start = start.map_err(|error| Failure::system(&what, error))?;
        let segment = Self { start, file, path, rank, world };
        segment.come()?;
        Ok(segment)
    }

    fn come(&self) -> Result<(), Failure> {
        let (header, world) = (self.header(), self.world as u32);
        let first = header.world.compare_exchange(0, world, SeqCst, SeqCst);
        if let Some(other) = first.err().filter(|other| *other != world) {
            return Err(Failure::usage(format!("rank {} comes to a world of {world}, others to one of {other}", self.rank)));
        }
        if self.own().joined.swap(1, SeqCst) == 1 {
            return Err(Failure::usage(format!("rank {} was here before; another communicator needs another id", self.rank)));
        }
        if header.joined.fetch_add(1, SeqCst) + 1 == world {
            // Nobody else needs the name. A failure leaves a file behind, which is removed as stale.
            let _ = fs::remove_file(&self.path);
        }
        header.bell.ring();
        Ok(())
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header, lives as long as `self`, and is valid in whatever state it is.
        unsafe { self.start.cast().as_ref() }
    }

    pub(crate) fn world(&self) -> usize {
        self.world
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// This rank's part of the header.
    pub(crate) fn own(&self) -> &Rank {
        &self.header().ranks[self.rank]
    }

    /// All ranks' parts of the header.
    pub(crate) fn ranks(&self) -> &[Rank] {
        &self.header().ranks[..self.world]
    }

    /// The chunk that `rank` brings.
    pub(crate) fn input(&self, rank: usize) -> *mut u8 {
        self.at(chunk_of(rank))
    }

    /// The chunk of the result.
    pub(crate) fn result(&self) -> *mut u8 {
        self.at(CHUNKS_AT)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: all offsets are inside of the mapping.
        unsafe { self.start.cast::<u8>().add(offset).as_ptr() }
    }

    /// Waits until `ready`, or `until`; false if it is not ready by then.
    ///
    /// A rank that gave up or died is an error, as is one that has left, if it is still needed.
    pub(crate) fn wait(&self, until: Instant, ready: impl Fn() -> bool) -> Result<bool, Failure> {
        for _ in 0..LOOKS {
            if ready() {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        let bell = &self.header().bell;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if !bell.sleep(left.min(LOOK), &ready) {
                let there = self.check().and_then(|()| self.check_alive()).and_then(|()| self.check_left());
                // What a rank did before it went still counts.
                if ready() {
                    return Ok(true);
                }
                there?;
            }
            if ready() {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Whether all ranks have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.header().joined.load(SeqCst) as usize >= self.world
    }

    /// The ranks that have not come yet.
    pub(crate) fn missing(&self) -> String {
        let missing = self.ranks().iter().enumerate().filter(|(_, rank)| rank.joined.load(SeqCst) == 0);
        missing.map(|(rank, _)| rank.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Tells all ranks not to wait any longer.
    pub(crate) fn abort(&self) {
        self.leave();
        let _ = self.header().aborted.compare_exchange(0, self.rank as u32 + 1, SeqCst, SeqCst);
        self.header().bell.ring();
    }

    /// Says that this rank does not die but goes.
    pub(crate) fn leave(&self) {
        self.own().left.store(1, SeqCst);
    }

    /// Whether a rank has given up, or died if that is why.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.header().aborted.load(SeqCst) {
            0 => Ok(()),
            aborted => self.check_alive().and(Err(Failure::remote(format!("rank {} has given up", aborted - 1)))),
        }
    }

    /// Whether a rank has died.
    pub(crate) fn check_alive(&self) -> Result<(), Failure> {
        self.gone(0).map_or(Ok(()), |rank| Err(Failure::remote(format!("rank {rank} has died"))))
    }

    /// Whether a rank has left.
    fn check_left(&self) -> Result<(), Failure> {
        self.gone(1).map_or(Ok(()), |rank| Err(Failure::remote(format!("rank {rank} has left"))))
    }

    /// The first rank that was here and is no longer, and has said so (1) or not (0).
    fn gone(&self, left: u32) -> Option<usize> {
        (0..self.world).filter(|rank| *rank != self.rank && self.header().ranks[*rank].joined.load(SeqCst) == 1).find(|rank| {
            let there = presence::is_there(&self.file, *rank);
            // Read after the lock, which is let go after it is written.
            !there && self.header().ranks[*rank].left.load(SeqCst) == left
        })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let alone = !self.is_complete() && (0..self.world).all(|rank| rank == self.rank || !presence::is_there(&self.file, rank));
        if alone {
            let _ = fs::remove_file(&self.path);
        }
        // SAFETY: the mapping is this one's own, and every reference into it borrows from `self`.
        let _ = unsafe { munmap(self.start, BYTES) };
    }
}

/// Where a rank's chunk begins.
const fn chunk_of(rank: usize) -> usize {
    CHUNKS_AT + CHUNK * (rank + 1)
}
