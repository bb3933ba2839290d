//! What a line of a log says about itself: when it was written, and how serious it is (the format is `common::telemetry`'s).

use std::str::from_utf8;

use crate::story::{Time, time};

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Level {
    /// Everything.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What is wrong.
    Error,
}

/// The longest time stamp, with nanoseconds.
const STAMP: usize = 32;

/// When a line was written, if it starts with a time. Lines that do not belong to the one before.
pub(super) fn stamp(line: &[u8]) -> Option<Time> {
    // Cheap, and true of no other line that workers or launchers write.
    if line.get(4) != Some(&b'-') || line.get(10) != Some(&b'T') {
        return None;
    }
    let end = line.iter().take(STAMP).position(|byte| matches!(byte, b' ' | b'\n')).unwrap_or(line.len().min(STAMP));
    time(from_utf8(&line[..end]).ok()?)
}

/// How serious a line is: the first or second word after the time.
pub(super) fn level(line: &[u8]) -> Option<Level> {
    let words = line[..line.len().min(96)].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.skip(1).take(2).find_map(|word| match word {
        b"TRACE" => Some(Level::Trace),
        b"DEBUG" => Some(Level::Debug),
        b"INFO" => Some(Level::Info),
        b"WARN" => Some(Level::Warn),
        b"ERROR" => Some(Level::Error),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_workers_and_of_others() {
        let line = b"2026-09-21T14:13:20.250000Z rank=3  WARN worker::data: slow step=7\n";
        assert_eq!((stamp(line), level(line)), (Some(Time::from_millis(1_790_000_000_250)), Some(Level::Warn)));
        let without_rank = b"2026-09-21T14:13:20.250000Z ERROR orchestrator: no";
        assert_eq!((stamp(without_rank).is_some(), level(without_rank)), (true, Some(Level::Error)));
        for other in [&b""[..], b"\n", b"   0: core::panicking", b"thread 'main' panicked", b"2026-99-21Talk", b"2026-09-21T14:13"]
        {
            assert_eq!((stamp(other), level(other)), (None, None));
        }
        assert!(Level::Warn < Level::Error);
    }
}
