//! Which messages are shown.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use regex::bytes::Regex;

use super::line::Level;
use super::source::Message;
use crate::story::{Time, since_1970};

/// What a message must be like.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// At least so serious.
    pub(super) level: Option<Level>,
    /// Must be found in it.
    pub(super) grep: Option<Regex>,
    /// Not older.
    pub(super) since: Option<Time>,
}

impl Filter {
    /// Hands over the text of a message that is to be shown, or the lines of it that are: a message with a time is shown as a whole when one
    /// of its lines matches, other words line by line.
    pub(super) fn apply<'a, E>(&self, message: &Message<'a>, mut show: impl FnMut(&'a [u8]) -> Result<(), E>) -> Result<(), E> {
        let young = self.since.is_none_or(|since| message.time >= since);
        let serious = self.level.is_none_or(|least| message.level.is_none_or(|level| level >= least));
        if !young || !serious {
            return Ok(());
        }
        match &self.grep {
            Some(grep) if message.stamped => {
                if grep.is_match(message.text) {
                    show(message.text)
                } else {
                    Ok(())
                }
            }
            Some(grep) => message.text.split_inclusive(|byte| *byte == b'\n').filter(|line| grep.is_match(line)).try_for_each(show),
            None => show(message.text),
        }
    }
}

/// A time, or how long ago that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(pub(super) Time);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ago = |ago: Duration| since_1970(SystemTime::now()).saturating_sub(ago);
        let at = humantime::parse_rfc3339_weak(text).map(since_1970);
        at.or_else(|_| humantime::parse_duration(text).map(ago))
            .map(Self)
            .map_err(|_| format!("`{text}` is neither a duration as 10m or 2h nor a time (UTC) as 2026-11-25T12:00:00Z"))
    }
}
