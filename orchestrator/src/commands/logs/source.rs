//! One log file, cut into messages: a line with a time, and the lines without one (panics, back traces) that follow it.
//!
//! The file is open only while a piece of it is read, so that any number of files can be merged, and only that piece is in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use memchr::memchr;

use super::line::{Level, level, stamp};
use crate::story::{Time, since_1970};

/// A message that is longer is cut here, between two lines where there is an end of a line.
const LONGEST: usize = 1 << 20;

/// What the end of the file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is there is all there is, also half a line.
    Final,
    /// The rest of a half line is still to come.
    Open,
}

/// Whose file it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Author {
    /// The worker; none for the launcher.
    pub(super) rank: Option<usize>,
    /// Its host, as far as known.
    pub(super) host: Option<String>,
}

/// A message, in the buffer of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// When; lines before the first time in a file have that time, or the file's if it has none.
    pub(super) time: Time,
    /// How serious.
    pub(super) level: Option<Level>,
    /// Whether its first line has the time.
    pub(super) stamped: bool,
    /// Its lines. Only the last of a file may lack its end.
    pub(super) text: &'a [u8],
}

/// A log file, read message by message.
#[derive(Debug)]
pub(super) struct Source {
    /// Whose it is.
    pub(super) author: Author,
    pub(super) path: PathBuf,
    /// Where the next piece starts.
    pub(super) offset: u64,
    chunk: usize,
    buffer: Vec<u8>,
    /// The message at hand.
    start: usize,
    end: usize,
    time: Option<Time>,
    level: Option<Level>,
    stamped: bool,
}

impl Source {
    /// The file at `path`, which is read in pieces of `chunk` bytes.
    pub(super) fn new(path: PathBuf, author: Author, chunk: usize) -> Self {
        Self { author, path, offset: 0, chunk, buffer: Vec::new(), start: 0, end: 0, time: None, level: None, stamped: false }
    }

    /// The message at hand.
    pub(super) fn message(&self) -> Message<'_> {
        let time = self.time.unwrap_or_default();
        Message { time, level: self.level, stamped: self.stamped, text: &self.buffer[self.start..self.end] }
    }

    /// Goes on to the next message; gives its time, or nothing at the end of the file.
    pub(super) fn next(&mut self, ending: Ending) -> io::Result<Option<Time>> {
        self.start = self.end;
        if !self.delimit(ending)? {
            return Ok(None);
        }
        let first = &self.buffer[self.start..self.end];
        match stamp(first) {
            Some(time) => (self.time, self.level, self.stamped) = (Some(time), level(first), true),
            None => {
                self.stamped = false;
                // Before the first time of the file; later, the rest of a message that was cut has its time and level.
                if self.time.is_none() {
                    self.time = Some(stamp(&self.buffer[self.end..]).map_or_else(|| self.modified(), Ok)?);
                }
            }
        }
        Ok(self.time)
    }

    /// Finds the end of the message that begins at `start`; false if there is none yet.
    fn delimit(&mut self, ending: Ending) -> io::Result<bool> {
        let mut line = self.start;
        loop {
            let Some(length) = memchr(b'\n', &self.buffer[line..]) else {
                let begun = line - self.start;
                if self.buffer.len() - self.start >= LONGEST {
                    self.end = if begun > 0 { line } else { self.buffer.len() };
                    return Ok(true);
                }
                let filled = self.fill()?;
                line = self.start + begun;
                if filled {
                    continue;
                }
                let belongs = line == self.start || stamp(&self.buffer[line..]).is_none();
                self.end = if ending == Ending::Final && belongs { self.buffer.len() } else { line };
                return Ok(self.end > self.start);
            };
            let begins_another = line > self.start && (stamp(&self.buffer[line..]).is_some() || line - self.start >= LONGEST);
            if begins_another {
                self.end = line;
                return Ok(true);
            }
            line += length + 1;
        }
    }

    /// Reads the next piece behind what is left in the buffer; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        (self.start, self.end) = (0, self.end - self.start);
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.take(self.chunk as u64).read_to_end(&mut self.buffer)?;
        self.offset += read as u64;
        if read == 0 {
            self.buffer.shrink_to(self.chunk);
        }
        Ok(read > 0)
    }

    /// Whether the file has grown since it was read to its end.
    pub(super) fn has_grown(&self) -> bool {
        self.path.metadata().is_ok_and(|metadata| metadata.len() > self.offset)
    }

    fn modified(&self) -> io::Result<Time> {
        Ok(since_1970(self.path.metadata()?.modified()?))
    }
}
