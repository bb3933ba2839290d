//! Reading a configuration: TOML file, then `--set key=value`, with errors that name the key and where it was given.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::{ConfigError, Place};
use super::keys::{Key, join, keys_of, nearest};
use super::{Config, validate};

/// Keys that have moved, with the table and the key that they are now: configurations of earlier runs still hold them.
const MOVED: [(&str, [&str; 2]); 1] = [("evaluate.library", ["concepts", "images"])];

/// Reads the configuration in `path`, refined by `overrides` (each `key=value`, later ones win), and validates it.
///
/// # Errors
/// One line that names the key and the file's line or the override.
pub fn from_file(path: &Path, overrides: &[String]) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    from_str(&text, &path.display().to_string(), overrides)
}

/// As [`from_file`], from the TOML `text` that errors call `name`.
///
/// # Errors
/// As [`from_file`].
pub fn from_str(text: &str, name: &str, overrides: &[String]) -> Result<Config, ConfigError> {
    let keys = keys_of::<Config>().unwrap_or_default();
    let mut source = Source { places: BTreeMap::new(), file: name.to_owned() };

    let mut table = source.add(text, &keys, &|line| Place::File { name: name.to_owned(), line: Some(line) })?;
    for assignment in overrides {
        let text = as_toml(assignment)?;
        let refined = source.add(&text, &keys, &|_| Place::Set(assignment.clone()))?;
        merge(&mut table, refined);
    }
    let config = source.deserialize(table)?;
    validate::check(&config).map_err(|problem| ConfigError::OutOfRange { place: source.place_of(&problem.key), problem })?;
    Ok(config)
}

/// The whole configuration, defaults included, as TOML that reads back equal.
///
/// # Errors
/// If a number does not fit TOML's integers (more than 2^63 - 1); validation refuses such numbers.
pub fn to_toml(config: &Config) -> Result<String, ConfigError> {
    Ok(toml::to_string(config)?)
}

/// A `key=value` as a TOML document. A value that is not TOML is a string, so that paths and words need no quotes; nor do times, as no key
/// takes those of TOML.
fn as_toml(assignment: &str) -> Result<String, ConfigError> {
    let refuse = || ConfigError::NotAnAssignment(assignment.to_owned());
    let (key, value) = assignment.split_once('=').ok_or_else(refuse)?;
    let as_value = format!("{key} = {value}");
    let is_time = value.parse::<toml::value::Datetime>().is_ok();
    if !value.contains('\n') && !is_time && DeTable::parse(&as_value).is_ok() {
        return Ok(as_value);
    }
    let as_string = format!("{key} = {}", Value::String(value.to_owned()));
    if DeTable::parse(&as_string).is_ok() { Ok(as_string) } else { Err(refuse()) }
}

/// Puts `refined` over `table`: tables are merged key by key, everything else is replaced.
fn merge(table: &mut Table, refined: Table) {
    for (key, value) in refined {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Where each key was given, for messages.
struct Source {
    places: BTreeMap<String, Place>,
    file: String,
}

impl Source {
    /// Parses one TOML document, refuses unknown keys and notes the place of every key.
    fn add(&mut self, text: &str, keys: &[Key], place: &dyn Fn(usize) -> Place) -> Result<Table, ConfigError> {
        let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            place: place(error.span().map_or(1, |span| line_at(span.start))),
            message: error.message().replace('\n', ", "),
        };
        let document = DeTable::parse(text).map_err(syntax)?;
        let mut found = Vec::new();
        collect("", document.get_ref(), keys, &mut found);
        found.sort_by_key(|(offset, _)| *offset);
        for (offset, key) in found {
            let place = place(line_at(offset));
            match keys.iter().find(|valid| valid.path == key) {
                // The table around an overridden key still lies where the file has it.
                Some(valid) if valid.table => _ = self.places.entry(key).or_insert(place),
                Some(_) => _ = self.places.insert(key, place),
                None if MOVED.iter().any(|(old, _)| *old == key) => {}
                None => {
                    let nearest = nearest(keys, &key).unwrap_or_default().to_owned();
                    return Err(ConfigError::UnknownKey { key, place, nearest });
                }
            }
        }
        let mut table = toml::from_str(text).map_err(syntax)?;
        move_keys(&mut table);
        Ok(table)
    }

    /// The place of a key, of the table around it, or at least the file.
    fn place_of(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Place::File { name: self.file.clone(), line: None },
            }
        }
    }

    /// Types the table, naming the key that does not fit.
    fn deserialize(&self, table: Table) -> Result<Config, ConfigError> {
        serde_path_to_error::deserialize(table).map_err(|error| {
            let path = error.path().to_string();
            let message = error.inner().message().lines().next().unwrap_or_default().to_owned();
            match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
                Some(field) => {
                    let key = join(path.trim_matches('.'), field);
                    ConfigError::MissingKey { key, place: Place::File { name: self.file.clone(), line: None } }
                }
                None => ConfigError::WrongType { place: self.place_of(&path), key: path, message: in_plain_words(&message) },
            }
        })
    }
}

/// Puts values under moved keys where they belong now, unless there is one already.
fn move_keys(table: &mut Table) {
    for (old, [new_table, new_key]) in MOVED {
        let Some((old_table, old_key)) = old.split_once('.') else { continue };
        let value = table.get_mut(old_table).and_then(Value::as_table_mut).and_then(|keys| keys.remove(old_key));
        let keys = value.is_some().then(|| table.entry(new_table).or_insert_with(|| Table::new().into()));
        if let (Some(value), Some(keys)) = (value, keys.and_then(Value::as_table_mut)) {
            keys.entry(new_key).or_insert(value);
        }
    }
}

/// All keys of a document with the byte offset of each, without looking into tables that no configuration has.
fn collect(table: &str, entries: &DeTable<'_>, keys: &[Key], found: &mut Vec<(usize, String)>) {
    for (key, value) in entries {
        let path = join(table, key.get_ref());
        if let DeValue::Table(inner) = value.get_ref()
            && keys.iter().any(|valid| valid.table && valid.path == path)
        {
            collect(&path, inner, keys, found);
        }
        found.push((key.span().start, path));
    }
}

/// Serde's message with types as a user of a TOML file knows them.
fn in_plain_words(message: &str) -> String {
    let (found, expected) = message.rsplit_once("expected ").unwrap_or((message, ""));
    let expected = match expected {
        "u64" | "usize" | "u32" => "a whole number of 0 or more",
        "i64" => "a whole number",
        "f64" => "a number",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a table",
        "" => return message.to_owned(),
        other => other,
    };
    format!("{found}expected {expected}")
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
