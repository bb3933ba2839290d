//! Finds by bisection where in a log file a time begins, so that the hours before it need not be read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use memchr::memchr;

use super::line::stamp;
use crate::story::Time;

/// What is looked at around a place, and left to be read line by line in the end.
const WINDOW: u64 = 64 << 10;

/// The start of a line before which no message of `since` or later lies, as far as times in the file do not go back.
pub(super) fn find(path: &Path, since: Time) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut low, mut high) = (0, file.metadata()?.len());
    // Every message that begins before `low` is older. Nothing that begins at `high` or later is needed to begin with.
    while high - low > WINDOW {
        let middle = low + (high - low) / 2;
        match first_stamp(&mut file, middle)? {
            Some((at, time)) if time < since && at < high => low = at,
            // Also where no time is found: going back is never wrong.
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first line with a time that begins after byte `from`, within a window: where it begins, and the time.
fn first_stamp(file: &mut File, from: u64) -> io::Result<Option<(u64, Time)>> {
    let mut buffer = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(WINDOW).read_to_end(&mut buffer)?;
    let mut place = 0;
    while let Some(length) = memchr(b'\n', &buffer[place..]) {
        place += length + 1;
        if let Some(time) = stamp(&buffer[place..]) {
            return Ok(Some((from + place as u64, time)));
        }
    }
    Ok(None)
}
