//! Frames on a terminal that is none.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::board::Board;
use super::draw::{Cursor, draw};
use super::rows::{hosts, ranks};
use super::terminal::press;
use super::text;
use crate::observe::testing::status;
use crate::supervisor::State;

fn frame(board: &Board, cursor: &mut Cursor, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, board, cursor)).unwrap();
    text(terminal.backend().buffer())
}

fn board(workers: usize) -> Board {
    let mut status = status(State::Running, workers);
    if let Some(worker) = status.workers.get_mut(13) {
        worker.straggler = true;
    }
    Board {
        run: "runs/movi-e".into(),
        heading: "train: running, generation 2".into(),
        progress: Some((0.2, "612/3000 steps".into())),
        facts: vec![("slurm", "job 4711".into()), ("checkpoint", "step 500".into())],
        ranks: ranks(&status.workers),
        hosts: hosts(&status.workers),
        loss: (0..300_u32).map(|step| (f64::from(step), 1.0 / f64::from(step + 1))).collect(),
        books: vec![("useful", 0.75, Duration::from_secs(3600)), ("queue", 0.25, Duration::from_secs(1200))],
        journal: (0..50).map(|number| format!("entry {number}")).collect(),
        ..Board::default()
    }
}

#[test]
fn a_frame_has_everything_in_its_place() {
    let text = frame(&board(16), &mut Cursor::default(), (120, 40));
    for words in [
        "runs/movi-e   train: running, generation 2\n",
        "612/3000 steps",
        "slurm         job 4711\n",
        "┌ ranks 1-16 of 16 ",
        "│13    n001       1200     STRAGGLER, computing",
        "│0     n000       1200     computing",
        "80%   14%   5.0%  1.0% ",
        "┌ loss 0.003333 ",
        "no records yet",
        "useful            1h   75 %  █████████",
        "│entry 49",
        "q quit   arrows, page keys scroll   h hosts   p pause\n",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(!text.contains("entry 40"), "only the newest find place");
    assert!(text.find("13    n001") < text.find("0     n000"), "who stands out comes first:\n{text}");
}

#[test]
fn any_size_and_an_empty_board_can_be_painted() {
    for size in [(1, 1), (20, 5), (80, 24), (80, 30), (400, 120)] {
        for board in [Board::default(), board(4096), Board { loss: vec![(1.0, 2.0)], ..board(1) }] {
            frame(&board, &mut Cursor::default(), size);
        }
    }
}

#[test]
fn many_workers_are_shown_by_host_and_keys_move_through_them() {
    let board = board(4096);
    let mut cursor = Cursor::default();
    let mut press_and_look = |code: KeyCode| {
        assert!(press(KeyEvent::from(code), &mut cursor, &board));
        frame(&board, &mut cursor, (120, 40))
    };
    assert!(press_and_look(KeyCode::Null).contains("│8-15         n001"));
    assert!(press_and_look(KeyCode::Down).contains(" hosts 2-"));
    assert!(press_and_look(KeyCode::End).contains("-512 of 512 "));
    assert!(press_and_look(KeyCode::Home).contains(" hosts 1-"));
    assert!(press_and_look(KeyCode::Char('h')).contains(" of 4096 "));
    assert!(press_and_look(KeyCode::Char('p')).contains("PAUSED"));
    assert!(!press(KeyEvent::from(KeyCode::Char('q')), &mut cursor, &board));
}
