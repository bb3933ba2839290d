//! Columns that are as wide as they have to be: names to the left, figures to the right.

use owo_colors::Style;

use crate::commands::output::styled;

/// A cell: its text and, where colours are shown, its style.
pub(in crate::commands) type Cell = (String, Option<Style>);

/// Rows of cells under a header.
pub(in crate::commands) struct Table<const COLUMNS: usize> {
    header: [&'static str; COLUMNS],
    /// Whether a column leans to the left.
    names: [bool; COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Without rows. A header that starts with `<` is that of names.
    pub(in crate::commands) fn new(header: [&'static str; COLUMNS]) -> Self {
        Self {
            header: header.map(|name| name.trim_start_matches('<')),
            names: header.map(|name| name.starts_with('<')),
            rows: Vec::new(),
        }
    }

    pub(in crate::commands) fn push(&mut self, row: [Cell; COLUMNS]) {
        self.rows.push(row);
    }

    /// The lines. A column in which no row has anything is left out.
    pub(in crate::commands) fn text(&self, colours: bool) -> String {
        let shown: Vec<usize> = (0..COLUMNS).filter(|&column| self.rows.iter().any(|row| !row[column].0.is_empty())).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].0.chars().count());
            cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
        };
        let mut text = String::new();
        let header = self.header.map(|name| (name.to_owned(), None));
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for &column in &shown {
                let ((cell, style), width) = (&row[column], width(column));
                let cell = if self.names[column] { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                line += &style.map_or(cell.clone(), |style| styled(&cell, style, colours));
                line += "  ";
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A cell without a style.
pub(in crate::commands) fn plain(text: impl ToString) -> Cell {
    (text.to_string(), None)
}

/// Bytes as people read them: `5.6 GB`.
pub(in crate::commands) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (5_581_234_567, "5.6 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_fit_and_empty_ones_are_left_out() {
        let mut table = Table::new(["<what", "step", "never"]);
        table.push([plain("a"), plain(1000), plain("")]);
        table.push([("longer".into(), Some(Style::new().red())), plain(2), plain("")]);
        assert_eq!(table.text(false), "what    step\na       1000\nlonger     2\n");
        assert!(table.text(true).contains("\u{1b}[31mlonger\u{1b}[39m") || table.text(true).contains("\u{1b}[31mlonger"));
    }
}
