//! The parts of the page, in the order in which they are read. Each says plainly what is not there yet.

use super::chart::chart;
use super::figures::figures;
use super::html::{Html, details, pairs, paragraph, section, table};
use crate::commands::checkpoints::list::Row;
use crate::commands::checkpoints::table::size;
use crate::commands::report::facts::{Checkpoints, Facts, Picture};
use crate::commands::words::{brief, brief_seconds, counted, percent};
use crate::commands::{goodput, why};
use crate::coordinator::significant;
use crate::story::{Book, Incident, Ledger, Remark};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Failures, remarks and checkpoints that are listed, the newest of them.
const LISTED: usize = 60;
/// All of them.
pub(super) fn all(facts: &Facts) -> Html {
    let charts = facts.charts.iter().map(|each| chart(each, &facts.marks)).collect::<Html>();
    let legend =
        paragraph("Dashed: the first step of a generation. Red: a failure. Steps that were done again replace those before.");
    let parts = [
        section("now", "Where it stands", standing(facts)),
        section("curves", "Curves", Html::element("div", &[("class", "charts")], charts).and(legend)),
        section("figures", "Figures", figures(&facts.figures)),
        section("pictures", "Pictures", pictures(facts)),
        section("goodput", "Goodput", goodput(facts)),
        section("failures", "Failures", failures(&facts.incidents).and(remarks(&facts.remarks))),
        section("checkpoints", "Checkpoints", checkpoints(&facts.checkpoints)),
        section("configuration", "Configuration", configuration(facts)),
        section("provenance", "Provenance", pairs(&facts.provenance)),
    ];
    Html::element("main", &[], parts.into_iter().collect::<Html>())
}

fn standing(facts: &Facts) -> Html {
    let now = if facts.status.is_empty() { paragraph("not launched yet") } else { pairs(&facts.status) };
    let other = facts.other_jobs.iter().map(|job| Html::element("li", &[], job.trim())).collect::<Html>();
    if facts.other_jobs.is_empty() {
        now
    } else {
        now.and(paragraph("Other jobs of this run:")).and(Html::element("ul", &[], other))
    }
}

fn pictures(facts: &Facts) -> Html {
    if facts.pictures.is_empty() && facts.left_out.is_empty() {
        return paragraph(
            "None yet: the jobs evaluate, probe, concepts, compose and edit draw them, and training with train.evaluation.every_steps.",
        );
    }
    let shown = facts.pictures.iter().map(picture).collect::<Html>();
    let left_out = facts.left_out.iter().map(|(name, reason)| Html::element("li", &[], format!("{name}: {reason}")));
    let left_out: Html = left_out.collect();
    let note = match facts.left_out.len() {
        0 => Html::default(),
        count => paragraph(format!("{} left out:", counted(count, "picture"))).and(Html::element("ul", &[], left_out)),
    };
    shown.and(note)
}

fn picture(picture: &Picture) -> Html {
    let caption = caption(&picture.name);
    let alt = format!("{}: {caption}", picture.name);
    let data = format!("data:{};base64,{}", picture.media, STANDARD.encode(&picture.bytes));
    let (width, height) = picture.size.map_or_else(Default::default, |(width, height)| (width.to_string(), height.to_string()));
    let mut attributes = vec![("src", data.as_str()), ("alt", alt.as_str())];
    if picture.size.is_some() {
        attributes.extend([("width", width.as_str()), ("height", height.as_str())]);
    }
    let name = Html::element("code", &[], picture.name.as_str());
    let caption = Html::element("figcaption", &[], name.and(" ").and(caption));
    Html::element("figure", &[], Html::open("img", &attributes).and(caption))
}

/// What the jobs draw into the pictures of these names.
fn caption(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or(name, |(stem, _)| stem) {
        "evaluate" => {
            "held-out scenes: the image, its true objects, those that the slots found, the picture painted from the slots, and what each \
             slot sees"
        }
        "compose" => "scenes composed from slots of different pictures, each beside the slots that it is made of",
        "library" => "the library of slots: one row per concept, from its centre to its edge",
        "edit" => "images, their slots, repainted without and with the edit, and what was edited",
        "slots" => "images, their numbered slots, repainted, and what each slot sees",
        "probe" => {
            "labels of held-out objects read off their slots: predicted (across) against true (down), as shares of each true class, and \
             predicted (up) against true (across) figures"
        }
        stem if stem.starts_with("step-") => {
            "the newest look at held-out scenes while training: the image, its true objects if they are known, those that the slots found, \
             the picture painted from the slots, and a scene painted from slots of all of these"
        }
        _ => "a picture that this run has drawn",
    }
}

fn goodput(facts: &Facts) -> Html {
    let Some(ledger) = &facts.ledger else { return paragraph("No launch yet, so no time to account for.") };
    let advice = facts.advice.as_deref().map(paragraph).unwrap_or_default();
    paragraph(goodput::sentence(ledger)).and(bar(ledger)).and(books(ledger)).and(advice)
}

/// The time of each book that has any.
fn spent(ledger: &Ledger) -> impl Iterator<Item = (usize, Book, f64)> {
    let elapsed = ledger.elapsed().as_secs_f64();
    let share = move |book| if elapsed > 0.0 { ledger.books.get(book).as_secs_f64() / elapsed } else { 0.0 };
    Book::ALL.into_iter().enumerate().map(move |(index, book)| (index, book, share(book))).filter(|(_, _, share)| *share > 0.0)
}

/// One bar for all the time.
fn bar(ledger: &Ledger) -> Html {
    let mut from = 0.0;
    let part = |(index, book, share): (usize, Book, f64)| {
        let class = format!("book{index}");
        let (x, width) = (format!("{:.3}", 1000.0 * from), format!("{:.3}", 1000.0 * share));
        from += share;
        let tip = Html::element("title", &[], format!("{} {}", book.name(), percent(share)));
        Html::element("rect", &[("class", &class), ("x", &x), ("width", &width), ("height", "28")], tip)
    };
    let words = spent(ledger).map(|(_, book, share)| format!("{} {}", book.name(), percent(share))).collect::<Vec<_>>().join(", ");
    let parts: Html = spent(ledger).map(part).collect();
    let attributes =
        [("class", "bar"), ("viewBox", "0 0 1000 28"), ("preserveAspectRatio", "none"), ("role", "img"), ("aria-label", &words)];
    Html::element("svg", &attributes, parts)
}

fn books(ledger: &Ledger) -> Html {
    let row = |(index, book, share): (usize, Book, f64)| {
        let swatch = Html::element("span", &[("class", &format!("swatch book{index}"))], "");
        let name = swatch.and(format!(" {}", book.name()));
        vec![name, brief(ledger.books.get(book)).into(), percent(share).into(), book.explanation().into()]
    };
    table(&["book", "time", "share", "what it was"], spent(ledger).map(row))
}

fn failures(incidents: &[Incident]) -> Html {
    if incidents.is_empty() {
        return paragraph("Nothing has failed.");
    }
    let row = |incident: &Incident| {
        let log = if incident.log.is_empty() {
            Html::default()
        } else {
            details("its last lines", Html::element("pre", &[], incident.log.join("\n")))
        };
        let lost = incident.noticed_within.map_or_else(String::new, brief_seconds);
        let cause = Html::text(why::headline(incident)).and(log);
        vec![short(&incident.time).into(), cause, lost.into(), why::then(&incident.aftermath).into()]
    };
    let rows = incidents.iter().rev().take(LISTED).map(row);
    table(&["noticed", "cause", "within", "then"], rows).and(before(incidents.len()))
}

fn remarks(remarks: &[Remark]) -> Html {
    if remarks.is_empty() {
        return Html::default();
    }
    let item = |remark: &Remark| {
        Html::element("li", &[], format!("{}, generation {}: {}", short(&remark.time), remark.generation, remark.text))
    };
    let items = remarks.iter().rev().take(LISTED).map(item).collect::<Html>();
    let list = Html::element("ul", &[], items).and(before(remarks.len()));
    details(&format!("{} worth knowing", counted(remarks.len(), "other thing")), list)
}

/// `2026-11-01T10:00:00`.
fn short(time: &str) -> &str {
    time.get(..19).unwrap_or(time)
}

/// How many of a list are not shown.
fn before(count: usize) -> Html {
    if count > LISTED { paragraph(format!("and {} before", count - LISTED)) } else { Html::default() }
}

fn checkpoints(checkpoints: &Checkpoints) -> Html {
    let (shown, note) = match checkpoints {
        Checkpoints::Stored(rows) => (stored(rows), Html::default()),
        Checkpoints::Told(commits, reason) => (told(commits), paragraph(format!("Not asked where they lie: {reason}"))),
    };
    let shown = if checkpoints.count() == 0 { paragraph("None yet.") } else { shown.and(before(checkpoints.count())) };
    shown.and(note)
}

fn stored(rows: &[Row]) -> Html {
    let row = |row: &Row| {
        let state = match (&row.damage, row.committed) {
            (Some(damage), _) => format!("damaged: {damage}"),
            (None, true) => "committed".into(),
            (None, false) => "partial".into(),
        };
        let cells = [
            row.step.to_string(),
            row.generation.to_string(),
            row.world.map_or_else(|| "-".into(), |world| world.to_string()),
            size(row.bytes),
            row.figure.map_or_else(|| "-".into(), significant),
            row.committed_at.as_deref().map_or("-", short).to_owned(),
            state,
        ];
        cells.map(Html::from).to_vec()
    };
    table(&["step", "generation", "workers", "size", "loss", "committed", "state"], rows.iter().take(LISTED).map(row))
}

fn told(commits: &[(u64, u64, String, f64)]) -> Html {
    let row = |(step, generation, time, seconds): &(u64, u64, String, f64)| {
        [step.to_string(), generation.to_string(), short(time).to_owned(), brief_seconds(*seconds)].map(Html::from).to_vec()
    };
    table(&["step", "generation", "committed", "took"], commits.iter().take(LISTED).map(row))
}

fn configuration(facts: &Facts) -> Html {
    let chosen = match &facts.settings {
        Err(reason) => paragraph(format!("The configuration cannot be understood: {reason}")),
        Ok(settings) => {
            let code = |text: &String| Html::element("code", &[], text.as_str());
            let rows = settings.chosen.iter().map(|(key, value)| vec![code(key), code(value)]);
            paragraph("What differs from the defaults, or has none:").and(table(&["key", "value"], rows))
        }
    };
    let whole = facts.run_toml.as_deref().map(|text| details("all of run.toml", Html::element("pre", &[], text)));
    chosen.and(whole.unwrap_or_else(|| paragraph("There is no run.toml, or it is empty.")))
}
