//! Puts messages on standard output, each line with its author in front where there are several.

use std::io::{self, BufWriter, StdoutLock, Write};

use owo_colors::{AnsiColors, OwoColorize};

use super::filter::Filter;
use super::line::Level;
use super::source::{Author, Message, Source};
use crate::commands::output::colours;

/// Colours that tell ranks apart.
const PALETTE: [AnsiColors; 6] =
    [AnsiColors::Cyan, AnsiColors::Green, AnsiColors::Magenta, AnsiColors::Blue, AnsiColors::Yellow, AnsiColors::BrightCyan];

/// Standard output, and what goes there.
pub(super) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    filter: Filter,
    colours: bool,
    /// Widths of host and rank, if authors are named.
    columns: Option<(usize, usize)>,
}

impl Printer {
    /// Prints what passes the filter.
    pub(super) fn new(filter: Filter) -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()), filter, colours: colours(), columns: None }
    }

    /// Learns whose messages are to come. Once there were several authors they are named to the end.
    pub(super) fn title<'a>(&mut self, authors: impl ExactSizeIterator<Item = &'a Author> + Clone) {
        if authors.len() > 1 || self.columns.is_some() {
            let width = |text: fn(&Author) -> usize| authors.clone().map(text).max().unwrap_or(0);
            let host = width(|author| author.host.as_ref().map_or(0, |host| host.chars().count()));
            let rank = width(|author| author.rank.map_or(0, |rank| rank.to_string().len()));
            self.columns = Some((host, rank));
        }
    }

    /// Prints a message.
    pub(super) fn print(&mut self, source: &Source, message: Message<'_>) -> io::Result<()> {
        let Self { out, filter, colours, columns } = self;
        filter.apply(&message, |text| {
            let Some(columns) = *columns else { return write_text(out, text, message.level, *colours) };
            let prefix = prefix(&source.author, columns, *colours);
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                out.write_all(prefix.as_bytes())?;
                write_text(out, line, message.level, *colours)?;
            }
            Ok(())
        })
    }

    /// Hands over what is still in memory.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `n04 13   | `, and `launcher | ` in the same width.
fn prefix(author: &Author, (host_width, rank_width): (usize, usize), colours: bool) -> String {
    let width = (host_width + 1 + rank_width).max("launcher".len());
    let Some(rank) = author.rank else { return format!("{:<width$} | ", "launcher") };
    let host = author.host.as_deref().unwrap_or_default();
    let who = if host_width > 0 { format!("{host:<host_width$} {rank:>rank_width$}") } else { format!("rank {rank:>rank_width$}") };
    let who = format!("{who:<width$}");
    if colours { format!("{} | ", who.color(PALETTE[rank % PALETTE.len()])) } else { format!("{who} | ") }
}

/// Text whose last line may lack its end.
fn write_text(out: &mut impl Write, text: &[u8], level: Option<Level>, colours: bool) -> io::Result<()> {
    let (line, end) = text.strip_suffix(b"\n").map_or((text, false), |line| (line, true));
    let colour = match level {
        Some(Level::Error) => Some("\u{1b}[31m"),
        Some(Level::Warn) => Some("\u{1b}[33m"),
        Some(Level::Debug | Level::Trace) => Some("\u{1b}[2m"),
        _ => None,
    };
    match colour.filter(|_| colours) {
        Some(colour) => {
            out.write_all(colour.as_bytes())?;
            out.write_all(line)?;
            out.write_all(b"\x1b[0m\n")
        }
        None if end => out.write_all(text),
        None => out.write_all(text).and_then(|()| out.write_all(b"\n")),
    }
}
