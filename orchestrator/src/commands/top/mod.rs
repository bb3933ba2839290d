//! `orchestrator top`: a run on one screen that renews itself, from files alone, so that it works from the login node.
//!
//! `board` says what there is to see, `draw` paints it and knows nothing else, `terminal` has the keys and the clock.

mod board;
mod charts;
mod draw;
mod rows;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use common::job::Job;
use common::run_dir::RunDir;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::terminal::size;

use super::output::print;
use crate::exit::Failure;
use crate::observe::{Observer, View, Wanted, chosen_job};
use board::Board;
use draw::{Cursor, draw};

/// Metrics beyond this many bytes (more than half a million records) would make every look slow.
const METRICS: u64 = 256 << 20;
/// Columns and rows of a frame where there is no terminal.
const SIZE: (u16, u16) = (120, 40);

/// Shows it until somebody has seen enough, or with `once` prints one frame as text.
pub(crate) fn run(run: PathBuf, job: Option<Job>, once: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(&run);
    let job = chosen_job(&folder, job)?;
    let is_terminal = io::stdout().is_terminal();
    if !(once || is_terminal && io::stdin().is_terminal()) {
        return Err(Failure::bad_input("top needs a terminal: use `top --once` for a single frame, or `status`"));
    }
    let observer = Observer::new(&folder, job, Wanted { crowd: false, metrics: METRICS })?;
    if !once {
        terminal::show(&run, observer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let view = View::of(&observer);
    let queue = view.ask_slurm();
    let board = Board::of(&run, &observer, &view, queue.as_ref());
    let (width, height) = if is_terminal { size().unwrap_or(SIZE) } else { SIZE };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).context("cannot draw")?;
    terminal.draw(|frame| draw(frame, &board, &mut Cursor::default())).context("cannot draw")?;
    print(&text(terminal.backend().buffer()))?;
    Ok(ExitCode::SUCCESS)
}

/// A frame without its colours.
fn text(buffer: &Buffer) -> String {
    let lines = buffer.content.chunks(usize::from(buffer.area.width.max(1)));
    lines.map(|cells| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned() + "\n").collect()
}
