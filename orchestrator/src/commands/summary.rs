//! The summary of a job as text.

use serde_json::Value;

use crate::coordinator::significant;

/// One `key  value` per line, keys of nested tables with dots, values in one column; then texts of several lines as they are.
pub(crate) fn text(summary: &Value) -> String {
    let mut rows = Vec::new();
    flatten(summary, String::new(), &mut rows);
    let (blocks, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, value)| value.contains('\n'));
    let width = rows.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let rows = rows.iter().map(|(key, value)| format!("{key:<width$}  {value}\n"));
    rows.chain(blocks.iter().map(|(_, block)| format!("\n{block}\n"))).collect()
}

fn flatten(value: &Value, key: String, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                flatten(value, if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push((key, text.clone())),
        Value::Number(number) if number.is_f64() => rows.push((key, number.as_f64().map_or_else(String::new, significant))),
        other => rows.push((key, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use serde_json::json;

    #[test]
    fn figures_stand_in_one_column() {
        let summary = json!({"steps": 40, "loss": 0.123_456, "scores": {"fg_ari": 0.7}, "picture": "a.png", "nothing": null});
        assert_eq!(text(&summary), "loss           0.1235\npicture        a.png\nscores.fg_ari  0.7\nsteps          40\n");
        assert_eq!(text(&serde_json::Value::Null), "");
    }

    #[test]
    fn tables_stand_apart_as_they_are() {
        let summary = json!({"scores": "model  mIoU\ntrained 0.5", "step": 40});
        assert_eq!(text(&summary), "step  40\n\nmodel  mIoU\ntrained 0.5\n");
    }
}
