//! The page, from what is known of a run. Nothing here reads a file.

mod chart;
mod figures;
mod html;
mod scale;
mod sections;
#[cfg(test)]
mod tests;

use html::{Html, paragraph};

use super::facts::Facts;

pub(super) use chart::COLUMNS;

/// Nothing may be fetched, whatever a name or a log line says: the browser is told so.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole document.
pub(super) fn page(facts: &Facts) -> String {
    let title = format!("{}: {}", facts.name, facts.heading);
    let head = [
        Html::open("meta", &[("charset", "utf-8")]),
        Html::open("meta", &[("http-equiv", "Content-Security-Policy"), ("content", POLICY)]),
        Html::open("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]),
        Html::open("meta", &[("name", "color-scheme"), ("content", "light dark")]),
        // Without it a browser asks for /favicon.ico.
        Html::open("link", &[("rel", "icon"), ("href", "data:,")]),
        Html::element("title", &[], title),
        Html::element("style", &[], Html::trusted(include_str!("style.css"))),
    ];
    let head = Html::element("head", &[], head.into_iter().collect::<Html>());
    let body = Html::element("body", &[], header(facts).and(sections::all(facts)).and(footer(facts)));
    format!("<!DOCTYPE html>\n{}\n", Html::element("html", &[("lang", "en")], head.and(body)).into_string())
}

fn header(facts: &Facts) -> Html {
    let standing = if facts.bad { "standing bad" } else { "standing" };
    let heading = format!("{}: {}", facts.job, facts.heading);
    let name = Html::element("h1", &[], facts.name.as_str());
    // What the page says was so long ago was so then.
    let as_of = Html::element("p", &[("class", "date")], format!("as of {}", facts.written));
    Html::element("header", &[], name.and(Html::element("p", &[("class", standing)], heading)).and(as_of))
}

fn footer(facts: &Facts) -> Html {
    let words = format!("Written {} by orchestrator {}.", facts.written, env!("CARGO_PKG_VERSION"));
    Html::element("footer", &[], paragraph(words))
}
