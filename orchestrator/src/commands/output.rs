//! Standard output of the monitoring commands: a reader that has seen enough is no failure, and colours are for people.

use std::io::{self, IsTerminal, Write};

use owo_colors::{OwoColorize, Style};

use crate::exit::Failure;

/// Prints a whole text.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    Ok(unless_unread(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?)
}

/// The result of a write, where a reader that has gone away counts as success.
pub(super) fn unless_unread(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Whether standard output shows colours.
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A text in a style, where colours are shown.
pub(super) fn styled(text: &str, style: Style, colours: bool) -> String {
    if colours { text.style(style).to_string() } else { text.to_owned() }
}
