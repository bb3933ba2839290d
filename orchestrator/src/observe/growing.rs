//! Files that others add to while we read: each look takes the whole lines that are new.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

/// Bytes per read.
const CHUNK: usize = 256 << 10;

/// A file of lines that is only ever added to.
#[derive(Debug)]
pub(crate) struct GrowingFile {
    path: PathBuf,
    offset: u64,
    line: Vec<u8>,
}

impl GrowingFile {
    /// The file at `path`, of which nothing was read yet. It may not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, line: Vec::new() }
    }

    /// Whether the file is shorter than what was read of it: it is another one now.
    pub(crate) fn was_replaced(&self) -> bool {
        self.offset > 0 && self.length() < self.offset
    }

    /// Bytes in the file, 0 if it does not exist.
    pub(crate) fn length(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Hands over the whole lines that are new, without their ends. The last one waits until its end is there.
    pub(crate) fn read<E: From<io::Error>>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(CHUNK, file);
        loop {
            let count = reader.read_until(b'\n', &mut self.line)?;
            self.offset += count as u64;
            if self.line.last() != Some(&b'\n') {
                return Ok(());
            }
            self.line.pop();
            let handed = each(&self.line);
            self.line.clear();
            handed?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_once_and_whole_however_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut file = GrowingFile::new(path.clone());
        let look = |file: &mut GrowingFile| {
            let mut lines = Vec::new();
            file.read(|line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                io::Result::Ok(())
            })
            .unwrap();
            lines
        };
        assert_eq!(look(&mut file), [] as [&str; 0]);
        let text = "one\n\nthree is longer\n";
        let mut seen = Vec::new();
        let mut out = File::create(&path).unwrap();
        for byte in text.bytes() {
            out.write_all(&[byte]).unwrap();
            seen.extend(look(&mut file));
        }
        assert_eq!(seen, ["one", "", "three is longer"]);
        assert!(!file.was_replaced());
        std::fs::write(&path, "new\n").unwrap();
        assert!(file.was_replaced());
    }
}
