//! Which keys of a configuration say something: those that would mean something else if they were left out.

use common::config::Config;
use serde_json::Value;

/// The keys, with dots, and their values as TOML has them. A table whose every key could be left out is not looked into.
pub(super) fn chosen(config: &Config) -> serde_json::Result<Vec<(String, String)>> {
    let mut whole = serde_json::to_value(config)?;
    let mut chosen = Vec::new();
    look(&mut whole, config, &mut Vec::new(), &mut chosen);
    Ok(chosen)
}

/// Looks at the table at `path`, leaving out one key after the other.
fn look(whole: &mut Value, config: &Config, path: &mut Vec<String>, chosen: &mut Vec<(String, String)>) {
    let keys: Vec<String> = table(whole, path).map(|table| table.keys().cloned().collect()).unwrap_or_default();
    for key in keys {
        let Some(value) = table(whole, path).and_then(|table| table.remove(&key)) else { continue };
        let without = serde_json::from_value::<Config>(whole.clone());
        if let Some(table) = table(whole, path) {
            table.insert(key.clone(), value.clone());
        }
        if without.is_ok_and(|without| without == *config) {
            continue;
        }
        path.push(key);
        match value {
            Value::Object(_) => look(whole, config, path, chosen),
            Value::Null => {}
            value => chosen.push((path.join("."), value.to_string())),
        }
        path.pop();
    }
}

fn table<'a>(whole: &'a mut Value, path: &[String]) -> Option<&'a mut serde_json::Map<String, Value>> {
    path.iter().try_fold(whole, |value, key| value.get_mut(key))?.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::load;

    const CONFIG: &str = include_str!("../../../../configs/quickstart.toml");

    fn keys(overrides: &[&str]) -> Vec<(String, String)> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        chosen(&load::from_str(CONFIG, "quickstart.toml", &overrides).unwrap()).unwrap()
    }

    #[test]
    fn a_key_at_its_default_says_nothing_and_any_other_is_named() {
        let plain = keys(&[]);
        let refined = keys(&["diffusion.snr_gamma=5", "cluster.slurm.partition=long", "data.flip=false"]);
        let new: Vec<_> = refined.iter().filter(|pair| !plain.contains(pair)).collect();
        let expected = [("cluster.slurm.partition", "\"long\""), ("diffusion.snr_gamma", "5.0")];
        assert_eq!(new, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).iter().collect::<Vec<_>>());
        assert!(plain.iter().any(|(key, _)| key == "run.name"));
        assert!(!plain.iter().any(|(key, _)| key == "run.root"));
    }

    #[test]
    fn the_chosen_keys_alone_make_the_same_configuration() {
        let config = load::from_str(CONFIG, "quickstart.toml", &[]).unwrap();
        let text: String = chosen(&config).unwrap().iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        assert_eq!(load::from_str(&text, "chosen.toml", &[]).unwrap(), config);
    }
}
