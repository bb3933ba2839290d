//! The figures of the jobs that judge a model, as tables.

use serde_json::Value;

use super::html::{Html, paragraph, table};
use crate::commands::report::facts::{Figures, Told};
use crate::commands::summary;

/// The figures in the order of a paper's table; others follow.
const FIGURES: [(&str, &str); 8] = [
    ("fg_ari", "FG-ARI"),
    ("ari", "ARI"),
    ("miou", "mIoU"),
    ("mbo", "mBO"),
    ("miou_over_images", "mIoU over images"),
    ("mbo_over_images", "mBO over images"),
    ("images", "images"),
    ("objects", "objects"),
];
/// The models of the figures in the order of the table; others follow.
const MODELS: [(&str, &str); 3] = [("trained", "trained"), ("untrained", "untrained"), ("position_only", "position only")];

/// What is said of a label.
const READINGS: [(&str, &str); 3] = [("accuracy", "accuracy"), ("r2", "R2"), ("mse", "MSE in [-1, 1]")];

/// All figures of the run.
pub(super) fn figures(figures: &Figures) -> Html {
    let Figures { evaluation, probes, distances } = figures;
    shown(evaluation, "Not evaluated yet (orchestrator launch --job evaluate).", objects)
        .and(shown(probes, "No labels read off slots yet (orchestrator launch --job probe).", labels))
        .and(shown(distances, "Not compared with real images yet (the job compose, with fid.weights).", nearness))
}

/// The figures that a job has written, if it has.
fn shown(figures: &Told, absent: &str, show: impl FnOnce(&Value) -> Html) -> Html {
    match figures {
        Err(reason) => paragraph(format!("The figures cannot be read: {reason}")),
        Ok(None) => paragraph(absent),
        Ok(Some(report)) => show(report),
    }
}

/// `evaluate.json`.
fn objects(report: &Value) -> Html {
    let Value::Object(report) = report else { return paragraph(report.to_string()) };
    let is_model = |value: &Value| value.as_object().is_some_and(|figures| figures.values().any(Value::is_number));
    let told = report.iter().filter(|(key, _)| *key != "picture");
    let (models, rest): (Vec<_>, Vec<_>) = told.partition(|(_, value)| is_model(value));
    let named = |known: &[(&'static str, &'static str)], keys: Vec<&String>| {
        let mut keys: Vec<(usize, String, String)> = keys
            .into_iter()
            .map(|key| match known.iter().position(|(name, _)| name == key) {
                Some(index) => (index, key.clone(), known[index].1.to_owned()),
                None => (known.len(), key.clone(), key.replace('_', " ")),
            })
            .collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let columns = named(&FIGURES, models.iter().flat_map(|(_, value)| value.as_object()).flat_map(serde_json::Map::keys).collect());
    let rows = named(&MODELS, models.iter().map(|(key, _)| *key).collect()).into_iter().map(|(_, key, name)| {
        let cell = |(_, column, _): &(usize, String, String)| Html::text(figure(&report[&key][column]));
        std::iter::once(Html::text(name)).chain(columns.iter().map(cell)).collect()
    });
    let header: Vec<&str> = std::iter::once("").chain(columns.iter().map(|(_, _, name)| name.as_str())).collect();
    let scores = if models.is_empty() { Html::default() } else { table(&header, rows) };
    let rest = Value::Object(rest.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect());
    scores.and(Html::element("pre", &[], summary::text(&rest)))
}

/// `probe.json`: what is read off the slots, label by label.
fn labels(report: &Value) -> Html {
    let head = format!("labels of {} objects, step {}", figure(&report["objects"]["held_out"]), figure(&report["step"]));
    let rows = report["labels"].as_array().into_iter().flatten().flat_map(|label| {
        let known = |(key, _): &&(&str, &str)| label["trained"].get(*key).is_some();
        READINGS.iter().filter(known).map(move |(key, name)| {
            let read = ["trained", "untrained", "constant"].map(|model| Html::text(figure(&label[model][*key])));
            std::iter::once(Html::text(format!("{}, {name}", figure(&label["name"])))).chain(read).collect()
        })
    });
    table(&[&head, "trained", "untrained", "constant"], rows)
}

/// `fid.json`: how near painted images are to real ones.
fn nearness(report: &Value) -> Html {
    let head = format!("distances, step {}", figure(&report["step"]));
    let rows = report["distances"].as_array().into_iter().flatten().map(|row| {
        let [images, beside] = [0, 1].map(|side| figure(&row["images"][side]));
        let cells =
            [figure(&row["name"]), images, beside, figure(&row["fid"]), thousandfold(&row["kid"]), thousandfold(&row["kid_std"])];
        cells.map(Html::from).to_vec()
    });
    table(&[&head, "images", "beside", "FID", "KID x 1000", "+-"], rows)
}

fn thousandfold(value: &Value) -> String {
    value.as_f64().map_or_else(|| figure(value), |value| figure(&(1e3 * value).into()))
}

/// A score with three digits, a count as it is.
fn figure(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, |value| format!("{value:.3}")),
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
