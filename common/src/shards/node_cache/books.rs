//! How full the cache is, and what goes to make room.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

const FILE: &str = "books";
/// Space on disks comes in units of this.
const PAGE: u64 = 4096;
/// Ends the name of a block that is being written; before it stands what was set aside for it.
const PARTIAL: &str = "partial";
pub(super) const IN_USE: &str = "in-use";

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// Blocks that stay.
    Kept,
    /// Blocks that pass through.
    Recent,
}

impl Shelf {
    pub(super) const ALL: [Self; 2] = [Self::Kept, Self::Recent];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Recent => "recent",
        }
    }
}

/// Most bytes of each shelf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    kept: u64,
    recent: u64,
}

impl Limits {
    /// Shares of `limit`, of which a little is left for folders and the books.
    pub(super) fn of(limit: u64) -> Self {
        let blocks = limit.saturating_sub((limit / 64).max(64 << 10));
        let recent = blocks / 4;
        Self { kept: blocks - recent, recent }
    }
}

/// What `bytes` bytes take on a disk.
pub(super) fn charge(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

fn charge_of(file: &Metadata) -> u64 {
    charge(file.len()).max(file.blocks() * 512)
}

/// The books, open for changes: nobody else changes them or makes room meanwhile.
pub(super) struct Books {
    folder: PathBuf,
    file: Flock<File>,
    used: [u64; Shelf::ALL.len()],
}

impl Books {
    /// Opens the books of the cache in `folder`, waiting for whoever has them.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(folder.join(FILE))?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut books = Self { folder: folder.to_owned(), file, used: [0; 2] };
        match parse(&text) {
            Some(used) => books.used = used,
            None => books.recount()?,
        }
        Ok(books)
    }

    /// Counts what lies there, and clears away what killed processes have left unfinished.
    pub(super) fn recount(&mut self) -> io::Result<()> {
        let mut used = [0; 2];
        for group in self.groups()? {
            for shelf in Shelf::ALL {
                for block in blocks(&group.join(shelf.folder())) {
                    used[shelf as usize] += match block.set_aside {
                        None => block.charge,
                        Some(_) if is_abandoned(&block.path) => {
                            fs::remove_file(&block.path)?;
                            0
                        }
                        Some(bytes) => bytes,
                    };
                }
            }
        }
        self.used = used;
        self.save()
    }

    /// Where `bytes` bytes more may lie, after making room if need be; none if they would be too many.
    pub(super) fn make_room(&mut self, limits: Limits, bytes: u64) -> io::Result<Option<Shelf>> {
        if self.make_room_to_stay(limits, bytes)? {
            return Ok(Some(Shelf::Kept));
        }
        if bytes > limits.recent {
            return Ok(None);
        }
        if self.used[Shelf::Recent as usize] + bytes > limits.recent {
            // Some more than needed, so that not every block has to look for the oldest.
            self.give_up_oldest((limits.recent - limits.recent / 8).saturating_sub(bytes))?;
        }
        Ok((self.used[Shelf::Recent as usize] + bytes <= limits.recent).then_some(Shelf::Recent))
    }

    /// Whether `bytes` bytes more may lie among what stays, after making room if need be.
    pub(super) fn make_room_to_stay(&mut self, limits: Limits, bytes: u64) -> io::Result<bool> {
        let [kept, _] = self.used;
        if kept + bytes > limits.kept && bytes <= limits.kept {
            self.give_up_unused(kept + bytes - limits.kept)?;
        }
        Ok(self.used[Shelf::Kept as usize] + bytes <= limits.kept)
    }

    /// Notes that `bytes` bytes will lie on `shelf`.
    pub(super) fn add(&mut self, shelf: Shelf, bytes: u64) -> io::Result<()> {
        self.used[shelf as usize] += bytes;
        self.save()
    }

    /// Removes a block that should not be there, if it is.
    pub(super) fn discard(&mut self, shelf: Shelf, path: &Path) -> io::Result<()> {
        let bytes = charge_of(&fs::metadata(path)?);
        fs::remove_file(path)?;
        self.subtract(shelf, bytes)
    }

    /// Notes that they do not.
    pub(super) fn subtract(&mut self, shelf: Shelf, bytes: u64) -> io::Result<()> {
        self.used[shelf as usize] = self.used[shelf as usize].saturating_sub(bytes);
        self.save()
    }

    /// Gives up blocks of data sets that nobody reads, those that were opened longest ago first, until `bytes` bytes are free.
    fn give_up_unused(&mut self, bytes: u64) -> io::Result<()> {
        let goal = self.used[Shelf::Kept as usize].saturating_sub(bytes);
        let opened = |group: &PathBuf| fs::metadata(group.join(IN_USE)).and_then(|marker| marker.modified());
        let mut groups = self.groups()?;
        groups.sort_by_cached_key(|group| opened(group).unwrap_or(SystemTime::UNIX_EPOCH));
        for group in groups {
            if self.used[Shelf::Kept as usize] <= goal {
                return Ok(());
            }
            let Ok(marker) = File::options().create(true).truncate(false).write(true).open(group.join(IN_USE)) else { continue };
            let Ok(_unused) = Flock::lock(marker, FlockArg::LockExclusiveNonblock) else { continue };
            self.give_up(Shelf::Kept, goal, blocks(&group.join(Shelf::Kept.folder())))?;
        }
        Ok(())
    }

    /// Gives up the blocks that passed through first, until no more than `goal` bytes are left.
    fn give_up_oldest(&mut self, goal: u64) -> io::Result<()> {
        let mut recent: Vec<Block> = Vec::new();
        for group in self.groups()? {
            recent.extend(blocks(&group.join(Shelf::Recent.folder())));
        }
        recent.sort_by_key(|block| block.written);
        self.give_up(Shelf::Recent, goal, recent)
    }

    fn give_up(&mut self, shelf: Shelf, goal: u64, blocks: Vec<Block>) -> io::Result<()> {
        for block in blocks.into_iter().filter(|block| block.set_aside.is_none()) {
            if self.used[shelf as usize] <= goal {
                break;
            }
            if fs::remove_file(&block.path).is_ok() {
                self.used[shelf as usize] = self.used[shelf as usize].saturating_sub(block.charge);
            }
        }
        self.save()
    }

    /// The folders of data sets.
    fn groups(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder)?.flatten();
        let is_group = |name: &str| name.len() == super::group::NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let groups = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_group));
        Ok(groups.map(|entry| entry.path()).collect())
    }

    fn save(&mut self) -> io::Result<()> {
        let [kept, recent] = self.used;
        let figures = format!("{kept:020} {recent:020}");
        let line = format!("{figures} {:08x}\n", crc32c::crc32c(figures.as_bytes()));
        self.file.seek(SeekFrom::Start(0))?;
        // One call for one line of constant length: no reader sees half of it.
        self.file.write_all(line.as_bytes())
    }
}

fn parse(text: &str) -> Option<[u64; 2]> {
    let (figures, digest) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    let (kept, recent) = figures.split_once(' ')?;
    let whole = u32::from_str_radix(digest, 16).ok()? == crc32c::crc32c(figures.as_bytes());
    whole.then_some([kept.parse().ok()?, recent.parse().ok()?])
}

/// A file on a shelf.
struct Block {
    path: PathBuf,
    charge: u64,
    written: SystemTime,
    /// The bytes that were set aside for it, if it is being written.
    set_aside: Option<u64>,
}

/// The blocks in a folder; what has another kind of name is not ours.
fn blocks(folder: &Path) -> Vec<Block> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let block = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        let is_block = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let set_aside = match name.strip_suffix(PARTIAL).and_then(|name| name.strip_suffix('.')) {
            Some(partial) => {
                let [block, writer, bytes] = partial.split('-').collect::<Vec<_>>()[..] else { return None };
                let is_ours = is_block(block) && writer.len() == 16 && writer.bytes().all(|byte| byte.is_ascii_hexdigit());
                Some(is_ours.then(|| bytes.parse().ok()).flatten()?)
            }
            None if is_block(name) => None,
            None => return None,
        };
        let file = entry.metadata().ok().filter(Metadata::is_file)?;
        let written = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Some(Block { path: entry.path(), charge: charge_of(&file), written, set_aside })
    };
    entries.flatten().filter_map(block).collect()
}

/// Whether nobody is writing the file any more.
fn is_abandoned(partial: &Path) -> bool {
    File::open(partial).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
}

/// A block that is being written, under a name that no reader looks for.
pub(super) struct Partial {
    file: Flock<File>,
    path: PathBuf,
}

impl Partial {
    /// Begins the block `name` in `folder`, for which `bytes` bytes were set aside. The caller has the books.
    pub(super) fn create(folder: &Path, name: &str, bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut writer = [0; 8];
        getrandom::fill(&mut writer)?;
        let path = folder.join(format!("{name}-{:016x}-{bytes}.{PARTIAL}", u64::from_le_bytes(writer)));
        let file = File::create_new(&path)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        Ok(Self { file, path })
    }

    /// Writes it and gives it its name; on failure nothing is left.
    pub(super) fn complete(mut self, data: &[u8], name: &str) -> io::Result<()> {
        let written = self.file.write_all(data).and_then(|()| fs::rename(&self.path, self.path.with_file_name(name)));
        if written.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        written
    }
}
