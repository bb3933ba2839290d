//! The valid keys of a configuration, read off the structs themselves.
//!
//! Serde hands every struct's field names to its deserializer. The deserializer here answers with dummy values and writes the names
//! down, so that the list of dotted keys (for "did you mean ...") can never disagree with the structs.

use std::cell::RefCell;

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, Error, StrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// One valid key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Dotted path, `train.optimizer.beta1`.
    pub(super) path: String,
    /// Whether it is a table with keys of its own.
    pub(super) table: bool,
}

/// All valid keys of `T`, tables included, each table before its keys.
///
/// # Errors
/// If `T` holds a kind of value that no configuration has (maps, tuples, enums with data).
pub(super) fn keys_of<'de, T: Deserialize<'de>>() -> Result<Vec<Key>, Error> {
    let keys = RefCell::new(Vec::new());
    T::deserialize(Tracer { path: String::new(), keys: &keys })?;
    Ok(keys.into_inner())
}

/// The valid key nearest to an unknown one: alike as a whole, or alike in its last part (the right key in the wrong table).
pub(super) fn nearest<'k>(keys: &'k [Key], unknown: &str) -> Option<&'k str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &Key| {
        let whole = strsim::normalized_damerau_levenshtein(&key.path, unknown);
        whole + strsim::normalized_damerau_levenshtein(&last(&key.path), &last(unknown))
    };
    keys.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).map(|key| key.path.as_str())
}

/// Deserializes dummy values and notes the path of everything that it is asked for.
struct Tracer<'t> {
    path: String,
    keys: &'t RefCell<Vec<Key>>,
}

impl Tracer<'_> {
    fn note(&self, table: bool) {
        if !self.path.is_empty() {
            self.keys.borrow_mut().push(Key { path: self.path.clone(), table });
        }
    }
}

/// Scalars: note the key, answer with a dummy.
macro_rules! leaves {
    ($($method:ident => $visit:ident($dummy:expr),)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note(false);
            visitor.$visit($dummy)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool => visit_bool(false),
        deserialize_i64 => visit_i64(0),
        deserialize_u64 => visit_u64(0),
        deserialize_u32 => visit_u32(0),
        deserialize_f64 => visit_f64(0.0),
        deserialize_str => visit_str(""),
        deserialize_string => visit_str(""),
        deserialize_seq => visit_seq(Nothing),
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(false);
        let first: StrDeserializer<'_, Error> = variants.first().copied().unwrap_or_default().into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(true);
        visitor.visit_map(Fields { table: self.path, fields, keys: self.keys })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(de::Error::custom(format!("{} is of a kind that a configuration cannot hold", self.path)))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct map identifier ignored_any
    }
}

/// The fields of one struct, in order, each with a dummy value.
struct Fields<'t> {
    table: String,
    fields: &'static [&'static str],
    keys: &'t RefCell<Vec<Key>>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.fields.first().map(|field| seed.deserialize(BorrowedStrDeserializer::new(field))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((field, rest)) = self.fields.split_first() else {
            return Err(de::Error::custom("a value without a field"));
        };
        self.fields = rest;
        let path = join(&self.table, field);
        seed.deserialize(Tracer { path, keys: self.keys })
    }
}

/// `table.key`, or `key` at the top.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// The empty list.
struct Nothing;

impl<'de> SeqAccess<'de> for Nothing {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, _seed: S) -> Result<Option<S::Value>, Error> {
        Ok(None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_structs_of_a_config_can_all_be_traced() {
        let keys = keys_of::<Config>().unwrap();
        let has = |path: &str, table| keys.contains(&Key { path: path.into(), table });
        assert!(has("train", true) && has("train.groups.slot_attention.warmup_steps", false));
        assert!(has("checkpoint.url", false) && has("autoencoder.scaling_factor", false), "optional keys are keys");
        assert!(has("diffusion.betas", false) && has("model.unet.attention", false));
    }

    #[test]
    fn the_nearest_key_is_found_by_spelling_and_by_name_in_another_table() {
        let keys = keys_of::<Config>().unwrap();
        for (unknown, expected) in [
            ("train.stepz", "train.steps"),
            ("trian", "train"),
            ("cluster.worker_per_node", "cluster.workers_per_node"),
            ("optimizer.beta1", "train.optimizer.beta1"),
            ("model.slot_attention.num_slots", "model.slot_attention.slots"),
        ] {
            assert_eq!(nearest(&keys, unknown), Some(expected));
        }
    }
}
