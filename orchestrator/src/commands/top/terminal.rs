//! The terminal while `top` has it: keys, the clock, and giving it back whatever happens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};

use super::board::Board;
use super::draw::{Cursor, draw};
use crate::observe::{Observer, Queue, View};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a key or a signal may wait.
const KEY: Duration = Duration::from_millis(100);
/// How often Slurm is asked about a job in its queue: its controller serves a whole cluster.
const ASK: Duration = Duration::from_secs(30);

/// Shows the run until q is pressed. The terminal is given back on every way out, a panic included.
pub(super) fn show(run: &Path, observer: Observer) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    end_on_signals(Arc::clone(&ended))?;
    let terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let shown = Screen { run, observer, queue: None, ended }.run(terminal);
    ratatui::try_restore().context("cannot give back the terminal")?;
    shown
}

struct Screen<'a> {
    run: &'a Path,
    observer: Observer,
    /// What Slurm said, about which job, and when.
    queue: Option<(Instant, String, Queue)>,
    ended: Arc<AtomicBool>,
}

impl Screen<'_> {
    fn run(mut self, mut terminal: DefaultTerminal) -> anyhow::Result<()> {
        let mut cursor = Cursor::default();
        let mut board = self.board();
        let mut looked = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            terminal.draw(|frame| draw(frame, &board, &mut cursor)).context("cannot draw")?;
            if event::poll(KEY).context("cannot read keys")?
                && let Event::Key(key) = event::read().context("cannot read keys")?
                && key.kind != KeyEventKind::Release
                && !press(key, &mut cursor, &board)
            {
                return Ok(());
            }
            if !cursor.paused && looked.elapsed() >= LOOK {
                looked = Instant::now();
                match self.observer.look() {
                    Ok(()) => board = self.board(),
                    // The file system may be back in a second.
                    Err(error) => board.error = Some(format!("{error:#}")),
                }
            }
        }
        Ok(())
    }

    fn board(&mut self) -> Board {
        let view = View::of(&self.observer);
        let job = view.waits_for().map(ToOwned::to_owned);
        let current = |(asked, about, _): &(Instant, String, Queue)| Some(about) == job.as_ref() && asked.elapsed() < ASK;
        if !self.queue.as_ref().is_some_and(current) {
            self.queue = job.map(|job| (Instant::now(), job.clone(), Queue::ask(&job)));
        }
        Board::of(self.run, &self.observer, &view, self.queue.as_ref().map(|(.., queue)| queue))
    }
}

/// Does what a key asks for; false to end.
pub(super) fn press(key: KeyEvent, cursor: &mut Cursor, board: &Board) -> bool {
    let page = cursor.page.max(1);
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('p' | ' ') => cursor.paused = !cursor.paused,
        KeyCode::Char('h') => (cursor.by_host, cursor.first) = (Some(!cursor.shows_hosts(board)), 0),
        KeyCode::Up | KeyCode::Char('k') => cursor.first = cursor.first.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => cursor.first += 1,
        KeyCode::PageUp => cursor.first = cursor.first.saturating_sub(page),
        KeyCode::PageDown => cursor.first += page,
        KeyCode::Home => cursor.first = 0,
        KeyCode::End => cursor.first = usize::MAX - page,
        _ => {}
    }
    true
}

/// A signal that ends the process would leave the terminal as it is, so it ends the screen first.
fn end_on_signals(ended: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot listen for signals")?;
    let (mut terminate, mut hang_up) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = hang_up.recv() => {} }
        });
        ended.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot listen for signals")?;
    Ok(())
}
