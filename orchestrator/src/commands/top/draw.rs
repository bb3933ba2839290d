//! Paints a board. Nothing here reads a file, a clock or a key.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row as TableRow, Table};

use super::board::{Board, book_line};
use super::charts::curve;
use super::rows::Row;
use crate::commands::words::percent;

/// More workers than this are shown by host unless asked otherwise.
const MANY: usize = 64;

/// What the keys have set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// First row of the table that is shown; painting keeps it within the table.
    pub(super) first: usize,
    /// Whether rows are hosts; by their number if nobody has said so.
    pub(super) by_host: Option<bool>,
    /// Whether the files are left alone for now.
    pub(super) paused: bool,
    /// Rows of the table that the last frame had place for.
    pub(super) page: usize,
}

impl Cursor {
    /// Whether rows are hosts.
    pub(super) fn shows_hosts(&self, board: &Board) -> bool {
        self.by_host.unwrap_or(board.ranks.len() > MANY)
    }
}

/// Paints the board.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, cursor: &mut Cursor) {
    let height = frame.area().height;
    let facts = u16::try_from(board.facts.len()).unwrap_or(0).min(height / 4);
    let bottom = match height {
        36.. => 11,
        28.. => 7,
        _ => 0,
    };
    let parts = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(facts), Constraint::Fill(1)];
    let [title, progress, about, middle, bottom, keys] =
        Layout::vertical(parts.into_iter().chain([Constraint::Length(bottom), Constraint::Length(1)])).areas(frame.area());
    let colour = if board.bad { Color::Red } else { Color::Green };
    let words = [Span::from(board.run.as_str()).bold(), "   ".into(), Span::from(board.heading.as_str()).fg(colour)];
    frame.render_widget(Line::from_iter(words), title);
    if let Some((share, text)) = &board.progress {
        let style = Style::new().fg(Color::Cyan).bg(Color::DarkGray);
        frame.render_widget(Gauge::default().ratio(*share).label(text.as_str()).gauge_style(style), progress);
    }
    let row = |(name, text): &(&'static str, String)| {
        Line::from_iter([Span::from(format!("{name:<13} ")).dim(), Span::from(text.clone())])
    };
    frame.render_widget(Paragraph::new(board.facts.iter().map(row).collect::<Vec<_>>()), about);
    let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(middle);
    table(frame, left, board, cursor);
    let [upper, lower] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(right);
    curve(frame, upper, "loss", &board.loss, Color::Yellow);
    curve(frame, lower, "images/s", &board.speed, Color::Cyan);
    if bottom.height > 0 {
        let [left, right] = Layout::horizontal([Constraint::Length(44), Constraint::Fill(1)]).areas(bottom);
        books(frame, left, board);
        journal(frame, right, board);
    }
    footer(frame, keys, board, cursor);
}

fn table(frame: &mut Frame<'_>, area: Rect, board: &Board, cursor: &mut Cursor) {
    let by_host = cursor.shows_hosts(board);
    let rows = if by_host { &board.hosts } else { &board.ranks };
    // Two lines of border and one of names.
    cursor.page = usize::from(area.height.saturating_sub(3));
    cursor.first = cursor.first.min(rows.len().saturating_sub(cursor.page));
    let shown = rows.iter().skip(cursor.first).take(cursor.page);
    let what = if by_host { "hosts" } else { "ranks" };
    let title = match rows.len() {
        0 => " no workers ".to_owned(),
        count => format!(" {what} {}-{} of {count} ", cursor.first + 1, (cursor.first + cursor.page).min(count)),
    };
    let rank_width = if by_host { 12 } else { 5 };
    let widths =
        [rank_width, 10, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]).chain([Constraint::Length(5); 4]);
    let names = [if by_host { "ranks" } else { "rank" }, "host", "step", "doing", "comp", "coll", "data", "save"];
    let table = Table::new(shown.map(cells), widths).header(TableRow::new(names).dim()).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn cells(row: &Row) -> TableRow<'static> {
    let [computing, collective, data, checkpoint] = match row.shares {
        Some(shares) => shares.map(|share| percent(share).replace(' ', "")),
        None => std::array::from_fn(|_| String::new()),
    };
    let stalled = row.shares.is_some_and(|[_, _, data, _]| data >= 0.1);
    let data = if stalled { Cell::from(data).fg(Color::Yellow) } else { Cell::from(data) };
    let cells =
        [row.ranks.clone(), row.host.clone(), row.step.to_string(), row.doing.clone(), computing, collective].map(Cell::from);
    let line = TableRow::from_iter(cells.into_iter().chain([data, Cell::from(checkpoint)]));
    if row.outstanding { line.fg(Color::Red).bold() } else { line }
}

fn books(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let bar = |share: f64| "█".repeat((share * 12.0).round() as usize);
    let line = |book: &(&'static str, f64, std::time::Duration)| {
        let colour = if book.0 == "useful" { Color::Green } else { Color::Yellow };
        Line::from_iter([Span::from(book_line(book)), "  ".into(), Span::from(bar(book.1)).fg(colour)])
    };
    let text = Paragraph::new(board.books.iter().map(line).collect::<Vec<_>>());
    frame.render_widget(text.block(Block::bordered().title(" where the time went ")), area);
}

fn journal(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let place = usize::from(area.height.saturating_sub(2));
    let newest = &board.journal[board.journal.len().saturating_sub(place)..];
    let line = |text: &String| {
        let line = Line::from(text.clone());
        if text.contains(" failed") || text.contains(" lost") { line.fg(Color::Red) } else { line }
    };
    let text = Paragraph::new(newest.iter().map(line).collect::<Vec<_>>());
    frame.render_widget(text.block(Block::bordered().title(" journal ")), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, board: &Board, cursor: &Cursor) {
    let line = match &board.error {
        Some(error) => Line::from(error.clone()).fg(Color::Red),
        None => {
            let other = if cursor.shows_hosts(board) { "ranks" } else { "hosts" };
            let pause = if cursor.paused { "PAUSED: p goes on" } else { "p pause" };
            Line::from(format!("q quit   arrows, page keys scroll   h {other}   {pause}")).dim()
        }
    };
    frame.render_widget(line, area);
}
