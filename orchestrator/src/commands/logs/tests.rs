//! Files as workers leave them: messages, their order, and where a time begins.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::filter::{Filter, Since};
use super::line::{Level, stamp};
use super::merge::merge;
use super::since::find;
use super::source::{Author, Ending, Source};
use crate::story::testing::clock;

fn source(path: &Path, rank: usize, chunk: usize) -> Source {
    Source::new(path.into(), Author { rank: Some(rank), host: None }, chunk)
}

/// Rank and text of all messages that are new.
fn read(sources: &mut [Source], ending: Ending) -> Vec<(usize, String)> {
    let mut messages = Vec::new();
    let mut sources: Vec<&mut Source> = sources.iter_mut().collect();
    merge(&mut sources, ending, &mut |source, message| {
        messages.push((source.author.rank.unwrap_or(99), String::from_utf8_lossy(message.text).into_owned()));
        io::Result::Ok(())
    })
    .unwrap();
    messages
}

#[test]
fn a_back_trace_stays_with_its_line_and_other_ranks_do_not_come_between() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: &[String]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, lines.concat()).unwrap();
        path
    };
    let line = |seconds: f64, text: &str| format!("{} {text}\n", clock(seconds));
    let panic = line(2.0, "ERROR panicked") + "  0: backtrace\n\n  1: more\n";
    let first = write("rank-00000.log", &[line(1.0, "INFO a"), panic.clone(), line(4.0, "INFO b"), "half a li".into()]);
    let second = write("rank-00001.log", &["before any time\n".into(), line(2.0, "INFO c"), line(3.0, "INFO d")]);
    let expected = [
        (0, line(1.0, "INFO a")),
        (0, panic),
        (1, "before any time\n".into()),
        (1, line(2.0, "INFO c")),
        (1, line(3.0, "INFO d")),
        (0, line(4.0, "INFO b") + "half a li"),
    ];
    for chunk in [1, 7, 1 << 20] {
        assert_eq!(read(&mut [source(&first, 0, chunk), source(&second, 1, chunk)], Ending::Final), expected, "chunk {chunk}");
    }
}

#[test]
fn a_growing_file_is_read_in_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("launcher.log");
    let text = format!("{} INFO a\nat b\n{} WARN c\n", clock(1.0), clock(2.0));
    let mut sources = [source(&path, 0, 16)];
    assert_eq!(read(&mut sources, Ending::Open), []);
    let mut seen = String::new();
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    for byte in text.bytes() {
        file.write_all(&[byte]).unwrap();
        assert!(sources[0].has_grown());
        for (_, message) in read(&mut sources, Ending::Open) {
            assert!(message.ends_with('\n'));
            seen += &message;
        }
    }
    assert_eq!(seen, text);
    assert!(!sources[0].has_grown());
}

#[test]
fn a_line_without_end_does_not_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rank-00000.log");
    fs::write(&path, vec![b'x'; 5 << 20]).unwrap();
    let messages = read(&mut [source(&path, 0, 1 << 16)], Ending::Final);
    assert!(messages.len() >= 4 && messages.iter().map(|(_, text)| text.len()).sum::<usize>() == 5 << 20);
}

#[test]
fn level_pattern_and_time_choose_and_words_without_a_level_are_always_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("launcher.log");
    let lines = ["INFO loss 1", "WARN slow", "INFO loss 2"];
    let stamped: Vec<String> =
        (0_u8..).zip(lines).map(|(second, line)| format!("{} {line}\n  more\n", clock(second.into()))).collect();
    fs::write(&path, "loss of libmpi\nbye\n".to_owned() + &stamped.concat()).unwrap();
    let shown = |filter: Filter| {
        let mut text = Vec::new();
        let mut source = source(&path, 0, 64);
        merge(&mut [&mut source], Ending::Final, &mut |_, message| filter.apply(&message, |part| text.write_all(part))).unwrap();
        String::from_utf8(text).unwrap()
    };
    let warn = shown(Filter { level: Some(Level::Warn), ..Filter::default() });
    assert_eq!(warn, format!("loss of libmpi\nbye\n{}", stamped[1]));
    let loss = shown(Filter { grep: Some("loss".parse().unwrap()), ..Filter::default() });
    assert_eq!(loss, format!("loss of libmpi\n{}{}", stamped[0], stamped[2]));
    let Since(since) = clock(1.0).parse().unwrap();
    assert_eq!(shown(Filter { since: Some(since), ..Filter::default() }), stamped[1..].concat());
    assert!("yesterday".parse::<Since>().is_err() && "10m".parse::<Since>().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every message once, in the order of time, and those of one file in their order.
    #[test]
    fn merging_loses_nothing(files in prop::collection::vec(prop::collection::vec(0_u32..50, 0..60), 1..8), chunk in 1_usize..400) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        let mut sources = Vec::new();
        for (rank, mut seconds) in files.into_iter().enumerate() {
            seconds.sort_unstable();
            let line = |(number, seconds): (usize, &u32)| format!("{} INFO line {number}\n", clock(f64::from(*seconds)));
            let lines: Vec<String> = seconds.iter().enumerate().map(line).collect();
            let path = folder.path().join(format!("rank-{rank:05}.log"));
            fs::write(&path, lines.concat()).unwrap();
            sources.push(source(&path, rank, chunk));
            expected.extend(seconds.into_iter().zip(lines).map(|(seconds, line)| (seconds, rank, line)));
        }
        expected.sort_by_key(|(seconds, rank, _)| (*seconds, *rank));
        let expected: Vec<(usize, String)> = expected.into_iter().map(|(_, rank, line)| (rank, line)).collect();
        prop_assert_eq!(read(&mut sources, Ending::Final), expected);
    }

    /// Bisection skips only what is older, and does not leave more than a window or two of that.
    #[test]
    fn bisection_finds_the_time(gaps in prop::collection::vec((0_u32..5, 0_usize..2000), 1..1500), since in 0.0..4000.0_f64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-00000.log");
        let (mut text, mut seconds) = (String::new(), 0.0);
        for (gap, length) in gaps {
            seconds += f64::from(gap);
            text += &format!("{} INFO {}\ncontinued\n", clock(seconds), "x".repeat(length));
        }
        fs::write(&path, &text).unwrap();
        let Since(since) = clock(since).parse().unwrap();
        let at = usize::try_from(find(&path, since).unwrap()).unwrap();
        let older = |line: &str| stamp(line.as_bytes()).is_none_or(|time| time < since);
        prop_assert!(text[..at].lines().all(older));
        prop_assert!(at == 0 || stamp(&text.as_bytes()[at..]).is_some());
        let read_in_vain: usize = text[at..].lines().take_while(|line| older(line)).map(|line| line.len() + 1).sum();
        prop_assert!(read_in_vain <= 140_000, "{read_in_vain} bytes");
    }
}
