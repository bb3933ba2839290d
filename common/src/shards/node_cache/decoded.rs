//! Rows of encoded columns as they are once decoded: what has taken a decoder's time once is read from then on.
//!
//! One file per block of encoded rows, which is called like the block with `.0` behind it, among what stays:
//!
//! ```text
//! u64 [rows]               0, or that the row is here (bit 32) and its CRC-32C (the bits below)
//! padding to 4096 bytes
//! u8 [rows, row_bytes]     the rows
//! ```
//!
//! The file has room for all of its rows from the start, so that the limit holds, and is filled by whoever decodes one of them. Nobody waits for anybody: what
//! two workers decode from the same bytes is the same. A row is followed by its digest, and is verified whenever it is read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::Group;
use super::books::{Books, Shelf, charge};
use crate::shards::cache::BlockKey;

const DIGEST_BYTES: u64 = 8;
const HERE: u64 = 1 << 32;

/// The decoded rows of one block of encoded ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecodedBlock {
    pub(crate) key: BlockKey,
    /// Rows of the block.
    pub(crate) rows: u64,
    /// Bytes of a row.
    pub(crate) row_bytes: u64,
}

impl DecodedBlock {
    fn name(&self) -> String {
        format!("{}.0", super::group::block_name(self.key))
    }

    fn first_row(&self) -> u64 {
        charge(self.rows * DIGEST_BYTES)
    }

    /// Bytes of the whole file.
    fn bytes(&self) -> u64 {
        self.first_row() + self.rows * self.row_bytes
    }

    /// What the file says about row `row`, if it is there.
    fn digest(file: &File, row: u64) -> io::Result<Option<u64>> {
        let mut digest = [0; DIGEST_BYTES as usize];
        file.read_exact_at(&mut digest, row * DIGEST_BYTES)?;
        let digest = u64::from_le_bytes(digest);
        Ok((digest & HERE != 0).then_some(digest))
    }

    fn read(&self, file: &File, row: u64, into: &mut [u8]) -> io::Result<bool> {
        let Some(expected) = Self::digest(file, row)? else { return Ok(false) };
        file.read_exact_at(into, self.first_row() + row * self.row_bytes)?;
        Ok(expected == digest_of(into))
    }

    fn write(&self, file: &File, row: u64, data: &[u8]) -> io::Result<()> {
        file.write_all_at(data, self.first_row() + row * self.row_bytes)?;
        file.write_all_at(&digest_of(data).to_le_bytes(), row * DIGEST_BYTES)
    }
}

fn digest_of(row: &[u8]) -> u64 {
    HERE | u64::from(crc32c::crc32c(row))
}

impl Group {
    /// Whether row `row` of the block is in the cache; it may prove damaged all the same.
    pub(crate) fn has_decoded(&self, block: &DecodedBlock, row: u64) -> bool {
        File::open(self.decoded_path(block)).is_ok_and(|file| DecodedBlock::digest(&file, row).is_ok_and(|digest| digest.is_some()))
    }

    /// Reads row `row` of the block; false if it is not in the cache as it was put there, and then what `into` holds means nothing.
    pub(crate) fn read_decoded(&self, block: &DecodedBlock, row: u64, into: &mut [u8]) -> bool {
        File::open(self.decoded_path(block)).is_ok_and(|file| block.read(&file, row, into).unwrap_or(false))
    }

    /// Puts row `row` of the block into the cache, if there is room or room can be made.
    pub(crate) fn keep_decoded(&self, block: &DecodedBlock, row: u64, data: &[u8]) {
        if !self.cache.adds() {
            return;
        }
        let kept = match File::options().write(true).open(self.decoded_path(block)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.begin_decoded(block),
            file => file.map(Some),
        };
        let written = kept.and_then(|file| file.map_or(Ok(()), |file| block.write(&file, row, data)));
        if let Err(error) = written {
            self.cache.give_up(&error);
        }
    }

    fn decoded_path(&self, block: &DecodedBlock) -> PathBuf {
        self.folder.join(Shelf::Kept.folder()).join(block.name())
    }

    /// The file of the block, without rows; none if there is no room for it.
    fn begin_decoded(&self, block: &DecodedBlock) -> io::Result<Option<File>> {
        if self.cache.is_full() {
            return Ok(None);
        }
        let (path, bytes) = (self.decoded_path(block), charge(block.bytes()));
        let mut books = Books::open(&self.cache.folder)?;
        let options = || File::options().create(true).truncate(false).write(true).clone();
        if path.exists() {
            return options().open(path).map(Some);
        }
        if !books.make_room_to_stay(self.cache.limits, bytes)? {
            self.cache.set_full();
            return Ok(None);
        }
        fs::create_dir_all(self.folder.join(Shelf::Kept.folder()))?;
        books.add(Shelf::Kept, bytes)?;
        let file = options().open(path)?;
        file.set_len(block.bytes())?;
        Ok(Some(file))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::NodeCache;
    use super::super::tests::on_disk;
    use super::*;
    use std::path::Path;

    const ROW: usize = 10_000;

    fn block(number: u64) -> DecodedBlock {
        DecodedBlock { key: (3, 1, 1, number), rows: 5, row_bytes: ROW as u64 }
    }

    fn row(block: u64, row: u64) -> Vec<u8> {
        (0..ROW).map(|index| (index / 41) as u8 ^ (block * 5 + row) as u8).collect()
    }

    /// One worker of the host.
    fn group(folder: &Path, limit: u64) -> Group {
        NodeCache::open(folder, limit).unwrap().group(&"a1".repeat(16)).unwrap()
    }

    /// Whether the row is there, as it was put there.
    fn is_kept(group: &Group, number: u64, of_block: u64) -> bool {
        let mut found = vec![0; ROW];
        let read = group.read_decoded(&block(number), of_block, &mut found);
        assert!(!read || found == row(number, of_block), "block {number}, row {of_block}");
        read
    }

    #[test]
    fn a_row_is_found_by_all_workers_and_runs_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (group(folder.path(), 1 << 30), group(folder.path(), 1 << 30));
        assert!(!one.has_decoded(&block(7), 0) && !is_kept(&one, 7, 0));
        for (worker, of_block) in [(&one, 4), (&other, 1), (&one, 1)] {
            worker.keep_decoded(&block(7), of_block, &row(7, of_block));
        }
        drop(one);
        let next = group(folder.path(), 1 << 30);
        assert_eq!([0, 1, 2, 3, 4].map(|of_block| is_kept(&next, 7, of_block)), [false, true, false, false, true]);
        assert!(next.has_decoded(&block(7), 4) && !next.has_decoded(&block(7), 3) && !is_kept(&next, 8, 4));

        let file = File::options().write(true).open(other.decoded_path(&block(7))).unwrap();
        file.write_all_at(b"?", block(7).first_row() + 4 * ROW as u64 + 99).unwrap();
        assert!(!is_kept(&next, 7, 4) && is_kept(&next, 7, 1));
        next.keep_decoded(&block(7), 4, &row(7, 4));
        assert!(is_kept(&next, 7, 4));
        file.set_len(block(7).first_row() + ROW as u64).unwrap();
        assert!(!is_kept(&next, 7, 1));
        file.set_len(3).unwrap();
        assert!(!next.has_decoded(&block(7), 1) && !is_kept(&next, 7, 1));
    }

    /// Two workers with more blocks than there is room for: what fits stays, also when the books are lost.
    #[test]
    fn the_limit_holds() {
        let (folder, limit) = (tempfile::tempdir().unwrap(), 1 << 20);
        let workers = [group(folder.path(), limit), group(folder.path(), limit)];
        for number in 0..40 {
            for of_block in 0..5 {
                workers[(of_block % 2) as usize].keep_decoded(&block(number), of_block, &row(number, of_block));
                assert!(on_disk(folder.path()) <= limit, "{} bytes", on_disk(folder.path()));
            }
        }
        let kept = |group: &Group| (0..40).filter(|&number| (0..5).all(|of_block| is_kept(group, number, of_block))).count();
        // Three quarters of a MiB, of which a sixteenth is for folders, in files of 56 KiB.
        assert_eq!(kept(&workers[0]), 12);
        drop(workers);
        fs::write(folder.path().join("lsd-blocks/books"), "").unwrap();
        let later = group(folder.path(), limit);
        later.keep_decoded(&block(50), 0, &row(50, 0));
        assert_eq!((kept(&later), is_kept(&later, 50, 0)), (12, false));
    }

    /// A disk that fails (here a file stands where a folder must be) ends the keeping and nothing else.
    #[test]
    fn a_failing_disk_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let group = group(folder.path(), 1 << 20);
        fs::write(group.folder.join("kept"), "").unwrap();
        for _ in 0..2 {
            group.keep_decoded(&block(0), 0, &row(0, 0));
            assert!(!is_kept(&group, 0, 0));
        }
        assert!(!group.cache.adds());
    }
}
