//! Differences as people read them.

use std::fmt::Write;

use owo_colors::Style;
use serde_json::Value;

use super::super::table::{Table, plain};
use super::tensors::TensorDifference;
use super::{Differences, PartDifference};
use crate::commands::output::styled;
use crate::coordinator::significant;

/// Tensors that are named, the farthest apart first.
const SHOWN: usize = 10;
/// Letters of a digest.
const DIGEST: usize = 16;

/// The whole text.
pub(super) fn of(found: &Differences, colours: bool) -> String {
    let mut text = format!("a: {}\nb: {}\n", found.a, found.b);
    if !found.facts.is_empty() {
        let mut table = Table::new(["<", "<a", "<b"]);
        for (name, a, b) in &found.facts {
            table.push([plain(name), plain(value(a)), plain(value(b))]);
        }
        let _ = write!(text, "\n{}", table.text(colours));
    }
    for (names, side) in [(&found.only_in_a, "a"), (&found.only_in_b, "b")] {
        if !names.is_empty() {
            let _ = writeln!(text, "\nparts that only {side} has: {}", names.join(", "));
        }
    }
    if found.identical {
        let verdict = styled("identical", Style::new().green(), colours);
        let _ = writeln!(text, "\n{verdict}: all {} parts, bit by bit", found.parts.len());
        return text;
    }
    let _ = write!(text, "\n{}", parts(&found.parts, colours));
    let _ = write!(text, "{}", farthest(&found.parts, colours));
    text
}

fn parts(parts: &[PartDifference], colours: bool) -> String {
    let mut table = Table::new(["<part", "tensors", "differ", "max |a-b|", "|a-b|/|a|"]);
    for part in parts {
        let distances = || part.differing.iter().filter_map(|tensor| tensor.distance);
        let largest = distances().map(|distance| distance.max_abs).fold(None, larger);
        let relative = distances().map(|distance| distance.relative).fold(None, larger);
        let state =
            if part.is_none() { (String::from("identical"), Some(Style::new().green())) } else { plain(part.differing.len()) };
        let figure = |figure: Option<f64>| plain(figure.map_or_else(String::new, significant));
        table.push([
            plain(&part.name),
            plain(part.tensors.map_or_else(String::new, |count| count.to_string())),
            state,
            figure(largest),
            figure(relative),
        ]);
    }
    table.text(colours)
}

fn larger(so_far: Option<f64>, next: f64) -> Option<f64> {
    Some(so_far.map_or(next, |so_far| so_far.max(next)))
}

/// The tensors that are farthest apart, and those that cannot be compared.
fn farthest(parts: &[PartDifference], colours: bool) -> String {
    let all = || parts.iter().flat_map(|part| part.differing.iter().map(move |tensor| (part, tensor)));
    let mut measured: Vec<_> = all().filter_map(|(part, tensor)| Some((part, tensor, tensor.distance?))).collect();
    measured.sort_by(|(_, _, a), (_, _, b)| b.relative.total_cmp(&a.relative));
    let mut table = Table::new(["<farthest apart", "<of", "<shape", "max |a-b|", "|a-b|/|a|"]);
    for (part, tensor, distance) in measured.iter().take(SHOWN) {
        let figures = [distance.max_abs, distance.relative].map(|figure| plain(significant(figure)));
        let [largest, relative] = figures;
        table.push([plain(&tensor.name), plain(&part.name), plain(format!("{:?}", tensor.shape)), largest, relative]);
    }
    let mut text = if measured.is_empty() { String::new() } else { format!("\n{}", table.text(colours)) };
    if let Some(more) = measured.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more (--json has them all)");
    }
    for (part, TensorDifference { name, shape, other, .. }) in all().filter(|(_, tensor)| tensor.distance.is_none()) {
        let other = other.as_deref().unwrap_or("other values, not of f32");
        let _ = writeln!(text, "{}: {name} {shape:?} in a, {other} in b", part.name);
    }
    for part in parts {
        for (names, side) in [(&part.only_in_a, "a"), (&part.only_in_b, "b")] {
            if !names.is_empty() {
                let _ = writeln!(text, "{}: only in {side}: {}", part.name, crate::commands::words::names(names, SHOWN));
            }
        }
    }
    text
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.len() > DIGEST && text.bytes().all(|letter| letter.is_ascii_hexdigit()) => {
            text[..DIGEST].into()
        }
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => significant(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}
