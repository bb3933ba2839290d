//! The page from made-up facts: its structure, what it says of what is not there, and that texts stay texts.

use std::time::Duration;

use common::journal::Event;
use serde_json::json;

use super::page;
use crate::commands::report::facts::{Chart, Checkpoints, Facts, Figures, Line, Mark, MarkKind, Picture, Settings, Span};
use crate::story::testing::{START, at, failed, launched, record, started};
use crate::story::{Ledger, Present, incidents, remarks};

/// A run of which nothing is known but its name.
fn nothing() -> Facts {
    Facts {
        name: "tiny".into(),
        written: "2026-11-01T10:00:00Z".into(),
        heading: "never launched".into(),
        bad: false,
        job: "train".into(),
        other_jobs: Vec::new(),
        status: Vec::new(),
        charts: vec![Chart { title: "Loss", unit: "", span: Span::Tight, lines: Vec::new() }],
        marks: Vec::new(),
        figures: Figures { evaluation: Ok(None), probes: Ok(None), distances: Ok(None) },
        pictures: Vec::new(),
        left_out: Vec::new(),
        ledger: None,
        advice: None,
        incidents: Vec::new(),
        remarks: Vec::new(),
        checkpoints: Checkpoints::Told(Vec::new(), "no store".into()),
        provenance: Vec::new(),
        settings: Err("no run.toml".into()),
        run_toml: None,
    }
}

/// A run with something in every part, in which every text from outside is `text`.
fn everything(text: &str) -> Facts {
    let mut failure = at(110.0, 1, failed(101));
    failure.reason = text.into();
    let mut outlier = at(1.0, 1, Event::Outlier { rank: 1, host: text.into() });
    outlier.reason = text.into();
    let entries = [at(0.0, 1, launched(None)), at(0.0, 1, started()), outlier, at(10.0, 1, Event::FirstStep { step: 1 }), failure];
    let now = Duration::from_secs(START + 130);
    let points = |factor: f64| (1..=100).map(|step| (step, factor / step as f64)).collect();
    Facts {
        name: text.into(),
        written: text.into(),
        heading: text.into(),
        bad: true,
        job: text.into(),
        other_jobs: vec![text.into()],
        status: vec![("loss", text.into())],
        charts: vec![Chart {
            title: "Learning rates",
            unit: "",
            span: Span::Tight,
            lines: vec![Line { name: "a", points: points(1.0) }, Line { name: "b", points: points(2.0) }],
        }],
        marks: [(MarkKind::Generation, 1), (MarkKind::Failure, 50), (MarkKind::Failure, 5000)]
            .map(|(kind, step)| Mark { step, kind, label: text.into(), words: text.into() })
            .to_vec(),
        figures: Figures {
            evaluation: Ok(Some(
                json!({"step": 3, text: {text: 0.5, "fg_ari": 0.25}, "trained": {"fg_ari": 0.6712}, "note": text, "picture": "a.png"}),
            )),
            probes: Ok(Some(json!({"step": 3, "objects": {"held_out": 7}, "labels": [
                {"name": text, "trained": {"accuracy": 0.75}, "untrained": {"accuracy": 0.5}, "constant": {"accuracy": 0.25}},
                {"name": "position", "trained": {"r2": 0.9, "mse": 0.0625}, "untrained": null, "constant": {"r2": 0.0, "mse": 0.4}},
            ]}))),
            distances: Ok(Some(json!({"step": 3, "distances": [
                {"name": text, "images": [24, 48], "fid": 8.75, "kid": 0.0625, "kid_std": null},
            ]}))),
        },
        pictures: vec![Picture { name: text.into(), media: "image/png", size: Some((4, 2)), bytes: vec![1, 2, 3] }],
        left_out: vec![(text.into(), text.into())],
        ledger: Ledger::keep(&entries, &[record(110.0, 1, 101, 100.0)], Present { now, seen: now }),
        advice: Some(text.into()),
        incidents: incidents(&entries, &[]),
        remarks: remarks(&entries, 1),
        checkpoints: Checkpoints::Told(vec![(100, 1, text.into(), 2.0)], text.into()),
        provenance: vec![("seed", text.into())],
        settings: Ok(Settings { chosen: vec![("run.name".into(), text.into())] }),
        run_toml: Some(text.into()),
    }
}

/// The names of the elements in their order, and that each is closed where it should be.
fn elements(page: &str) -> Vec<&str> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    for piece in page.split('<').skip(2) {
        let (tag, _) = piece.split_once('>').unwrap();
        let name = tag.split(' ').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{page}"),
            None => {
                all.push(name);
                if !["meta", "link", "img"].contains(&name) {
                    open.push(name);
                }
            }
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    all
}

#[test]
fn texts_from_outside_change_nothing_of_the_structure() {
    let harmless = page(&everything("plain"));
    let hostile = page(&everything("</style></pre>'\"><script>alert(1)</script>&amp;"));
    assert_eq!(elements(&harmless), elements(&hostile));
    assert!(hostile.contains("&amp;amp;") && !hostile.contains("<script"));
    assert!(hostile.matches("&lt;script&gt;").count() > 20, "{}", hostile.matches("&lt;script&gt;").count());
}

#[test]
fn every_part_is_there_and_its_figures_are_in_it() {
    let page = page(&everything("plain"));
    let count = |name: &str| elements(&page).into_iter().filter(|element| *element == name).count();
    assert_eq!([count("section"), count("polyline"), count("img"), count("table"), count("details")], [9, 2, 1, 7, 3]);
    for words in [
        "<img src=\"data:image/png;base64,AQID\" alt=\"plain: a picture that this run has drawn\" width=\"4\" height=\"2\">",
        "<th scope=\"row\">trained</th><td>0.671</td><td>-</td>",
        "<th scope=\"row\">plain</th><td>0.250</td><td>0.500</td>",
        "labels of 7 objects, step 3",
        "<th scope=\"row\">plain, accuracy</th><td>0.750</td><td>0.500</td><td>0.250</td>",
        "<th scope=\"row\">position, MSE in [-1, 1]</th><td>0.062</td><td>-</td><td>0.400</td>",
        "<th scope=\"row\">plain</th><td>24</td><td>48</td><td>8.750</td><td>62.500</td><td>-</td>",
        "Learning rates over steps 1 to 100, logarithmic axis. a from 1 at step 1 to 0.01 at step 100, between 0.01 and 1.",
        "useful 77 %, ",
        "rank 1 on n02: out of memory: plain",
        "1 other thing worth knowing",
        "<td>2.0 s</td>",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(!page.contains("a.png"), "a path is no figure");
    assert_eq!(page.matches("class=\"failure\"").count(), 1, "the other one is outside of the chart");
}

#[test]
fn what_is_not_there_yet_is_said() {
    let page = page(&nothing());
    elements(&page);
    for words in [
        "not launched yet",
        "no records yet",
        "Not evaluated yet",
        "No labels read",
        "Not compared",
        "None yet",
        "no store",
        "no run.toml",
        "Nothing has failed",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(!page.contains("<svg") && !page.contains("<table"), "{page}");
}
