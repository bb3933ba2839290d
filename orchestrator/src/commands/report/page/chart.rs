//! Curves over steps, drawn as SVG: no script, no picture, sharp on paper.

use super::html::{Html, paragraph};
use super::scale::{Scale, label};
use crate::commands::report::facts::{Chart, Mark, MarkKind, Span};
use crate::coordinator::significant;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 40.0;
/// Columns of a curve that are told apart: more than a screen has.
pub(in crate::commands::report) const COLUMNS: usize = 600;
/// Marks of one kind that a chart shows: beyond that they would hide the curve.
const MARKS: usize = 40;
/// Between two labels of generations, in the units of the drawing.
const LABEL_ROOM: f64 = 42.0;

/// A chart with its name, its newest values and its drawing; or that there is nothing to draw.
pub(super) fn chart(chart: &Chart, marks: &[Mark]) -> Html {
    let drawn: Vec<_> = chart.lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()).collect();
    let title = format!("{}{}", chart.title, if chart.unit.is_empty() { String::new() } else { format!(" ({})", chart.unit) });
    if drawn.is_empty() {
        return Html::element("figure", &[], Html::element("figcaption", &[], title).and(paragraph("no records yet")));
    }
    let newest = drawn.iter().map(|(index, line)| {
        let swatch = Html::element("span", &[("class", &format!("swatch line{index}"))], "");
        let value = line.points.last().map_or_else(String::new, |(_, value)| significant(*value));
        let name = if line.name.is_empty() { "newest" } else { line.name };
        Html::element("span", &[], swatch.and(format!(" {name} {value}  ")))
    });
    let heading = Html::element("strong", &[], title.as_str());
    let caption = Html::element("figcaption", &[], heading.and(" ").and(newest.collect::<Html>()));
    let drawing = Html::element("div", &[("class", "wide")], drawing(chart, &title, marks));
    Html::element("figure", &[("class", "chart")], caption.and(drawing))
}

fn drawing(chart: &Chart, title: &str, marks: &[Mark]) -> Html {
    let points = || chart.lines.iter().flat_map(|line| line.points.iter());
    let values = points().map(|(_, value)| *value);
    let y = match chart.span {
        Span::FromZero => Scale::from_zero(values),
        Span::Tight => Scale::of(values, true),
    };
    let (from, to) = points().fold((u64::MAX, 0), |(from, to), (step, _)| (from.min(*step), to.max(*step)));
    let x = Scale::linear(from as f64, to as f64);
    let axis = if y.logarithmic { "logarithmic" } else { "linear" };
    let words = format!("{title} over steps {from} to {to}, {axis} axis. {}", sentences(chart));
    let described = Html::element("title", &[], title).and(Html::element("desc", &[], words));
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    let content = described.and(grid(x, y)).and(marked(x, marks, from, to)).and(lines(chart, x, y));
    Html::element("svg", &[("viewBox", &view), ("role", "img"), ("aria-label", title)], content)
}

/// What the drawing shows, for those who do not see it.
fn sentences(chart: &Chart) -> String {
    let sentence = |line: &super::super::facts::Line| {
        let ((first, value), (last, newest)) = (line.points.first()?, line.points.last()?);
        let low = line.points.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let high = line.points.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        let name = if line.name.is_empty() { "It goes" } else { line.name };
        let [value, newest, low, high] = [*value, *newest, low, high].map(significant);
        Some(format!("{name} from {value} at step {first} to {newest} at step {last}, between {low} and {high}."))
    };
    chart.lines.iter().filter_map(sentence).collect::<Vec<_>>().join(" ")
}

fn across(x: Scale, step: f64) -> f64 {
    LEFT + x.place(step) * (WIDTH - LEFT - RIGHT)
}

fn down(y: Scale, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)
}

/// Ticks with their lines and labels.
fn grid(x: Scale, y: Scale) -> Html {
    let mut grid = Html::default();
    for tick in y.ticks() {
        let at = down(y, tick);
        grid = grid.and(line("grid", LEFT, at, WIDTH - RIGHT, at)).and(text("end", LEFT - 6.0, at + 4.0, &label(tick)));
    }
    let floor = HEIGHT - BOTTOM;
    // Steps are whole numbers.
    for tick in x.ticks().into_iter().filter(|tick| tick.fract() == 0.0) {
        let at = across(x, tick);
        grid = grid.and(line("axis", at, floor, at, floor + 4.0)).and(text("middle", at, floor + 18.0, &label(tick)));
    }
    grid.and(line("axis", LEFT, floor, WIDTH - RIGHT, floor)).and(text("middle", WIDTH / 2.0, HEIGHT - 4.0, "step"))
}

/// Generations and failures, where they are within the chart.
fn marked(x: Scale, marks: &[Mark], from: u64, to: u64) -> Html {
    let mut drawn = Html::default();
    let mut free = LEFT;
    for kind in [MarkKind::Failure, MarkKind::Generation] {
        let within: Vec<&Mark> = marks.iter().filter(|mark| mark.kind == kind && (from..=to).contains(&mark.step)).collect();
        let every = within.len().div_ceil(MARKS).max(1);
        for mark in within.into_iter().step_by(every) {
            let at = across(x, mark.step as f64);
            let class = if kind == MarkKind::Failure { "failure" } else { "generation" };
            let tip = Html::element("title", &[], mark.words.as_str());
            drawn = drawn.and(Html::element("g", &[], tip.and(line(class, at, TOP, at, HEIGHT - BOTTOM))));
            if kind == MarkKind::Generation && at >= free && at < WIDTH - RIGHT {
                drawn = drawn.and(text("middle", at, TOP - 7.0, &mark.label));
                free = at + LABEL_ROOM;
            }
        }
    }
    drawn
}

fn lines(chart: &Chart, x: Scale, y: Scale) -> Html {
    let mut drawn = Html::default();
    for (index, curve) in chart.lines.iter().enumerate() {
        let corner = |(step, value): &(u64, f64)| format!("{:.1},{:.1}", across(x, *step as f64), down(y, *value));
        let class = format!("curve line{index}");
        drawn = match &curve.points[..] {
            [] => drawn,
            [(step, value)] => {
                let (at, height) = (across(x, *step as f64).to_string(), down(y, *value).to_string());
                let point = [("class", format!("{class} point")), ("cx", at), ("cy", height), ("r", "3".into())];
                drawn.and(shape("circle", &point))
            }
            points => {
                let corners = points.iter().map(corner).collect::<Vec<_>>().join(" ");
                drawn.and(shape("polyline", &[("class", class), ("points", corners)]))
            }
        };
    }
    drawn
}

fn line(class: &'static str, x1: f64, y1: f64, x2: f64, y2: f64) -> Html {
    let place = [("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)].map(|(name, value)| (name, format!("{value:.1}")));
    shape("line", &[&[("class", class.to_owned())][..], &place].concat())
}

fn shape(name: &'static str, attributes: &[(&'static str, String)]) -> Html {
    let attributes: Vec<(&'static str, &str)> = attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Html::element(name, &attributes, "")
}

fn text(anchor: &'static str, x: f64, y: f64, text: &str) -> Html {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    Html::element("text", &[("text-anchor", anchor), ("x", &x), ("y", &y)], text)
}
