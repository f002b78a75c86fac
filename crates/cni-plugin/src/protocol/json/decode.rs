//! A value to the type that a plugin declares, with the tolerance of Go's decoder.

use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

/// Why a JSON value is not what is expected; the message names the field.
#[derive(Debug, thiserror::Error)]
#[error("{}{source}", prefix(.path))]
pub struct DecodeError {
    /// The field: `ipam.ranges[0][0].subnet`; `.` for the whole.
    path: String,
    /// What serde says about it.
    #[source]
    source: serde_json::Error,
}

impl From<serde_path_to_error::Error<serde_json::Error>> for DecodeError {
    fn from(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        Self { path: error.path().to_string(), source: error.into_inner() }
    }
}

fn prefix(path: &str) -> String {
    if path == "." { String::new() } else { format!("{path}: ") }
}

/// Decodes `value` with Go's tolerance: a struct's keys match in any letter case (an exact match wins), unknown keys are
/// ignored, null counts as absent.
///
/// `#[serde(flatten)]` loses this: serde asks for a map there, and a map's keys are data.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    serde_path_to_error::deserialize(Folded(value)).map_err(DecodeError::from)
}

/// How many wrong keys are left out one by one; after them the keys of the top are left out as a whole, so that the work stays
/// in proportion to the configuration's length.
const ONE_BY_ONE: usize = 32;

/// As [`decode`], for the verbs that must work with a configuration that ADD refuses (DEL and GC): a key whose value can't be
/// decoded counts as absent, and its neighbours are kept. A list with a wrong element is absent as a whole. Returns with it
/// the error of each key that was left out.
///
/// # Errors
/// What is wrong where leaving out a key doesn't help: a required key of the top is missing.
pub(crate) fn decode_without_wrong_keys<T: DeserializeOwned>(
    mut object: Map<String, Value>,
) -> Result<(T, Vec<DecodeError>), DecodeError> {
    let mut wrong = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(Folded(Value::Object(object.clone()))) {
            Ok(decoded) => return Ok((decoded, wrong)),
            Err(error) => error,
        };
        let mut keys = keys_before_a_list(error.path());
        if wrong.len() >= ONE_BY_ONE {
            keys.truncate(1);
        }
        let removed = remove(&mut object, &keys);
        let error = DecodeError::from(error);
        if !removed {
            return Err(error);
        }
        wrong.push(error);
    }
}

fn keys_before_a_list(path: &Path) -> Vec<String> {
    let key = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        _ => None,
    };
    path.iter().map_while(key).collect()
}

/// Removes what is under the last of these keys, each of which is in the object under the one before it. False if it isn't there.
fn remove(object: &mut Map<String, Value>, keys: &[String]) -> bool {
    let Some((key, rest)) = keys.split_first() else { return false };
    let matches = |name: &String, value: &Value| name.eq_ignore_ascii_case(key) && !value.is_null();
    let exact = object.get(key).filter(|value| !value.is_null()).map(|_| key.clone());
    // As in `Folded`, of several in other letter cases the last counts.
    let last = || object.iter().rfind(|(name, value)| matches(name, value)).map(|(name, _)| name.clone());
    let Some(name) = exact.or_else(last) else { return false };
    match object.get_mut(&name) {
        Some(Value::Object(inner)) if !rest.is_empty() => remove(inner, rest),
        _ => rest.is_empty() && object.remove(&name).is_some(),
    }
}

/// A JSON value that gives structs their keys in the letter case they expect.
struct Folded(Value);

impl Folded {
    /// The object's entries under the names that the struct has for them. An exact match replaces one in another case.
    fn fold(object: Map<String, Value>, fields: &'static [&'static str]) -> Vec<(&'static str, Folded)> {
        let mut folded: BTreeMap<&'static str, (bool, Value)> = BTreeMap::new();
        for (key, value) in object {
            let Some(field) = fields.iter().find(|field| key.eq_ignore_ascii_case(field)) else { continue };
            let exact = key == *field;
            if !value.is_null() && (exact || !folded.get(field).is_some_and(|(exact, _)| *exact)) {
                folded.insert(field, (exact, value));
            }
        }
        folded.into_iter().map(|(field, (_, value))| (field, Folded(value))).collect()
    }
}

impl<'de> Deserializer<'de> for Folded {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut seq = SeqDeserializer::new(items.into_iter().map(Folded));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Object(object) => {
                let entries = object.into_iter().map(|(key, value)| (key, Folded(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(MapDeserializer::new(Self::fold(object, fields).into_iter())),
            // A struct would also accept a list of its fields in order; Go doesn't.
            Value::Array(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &"an object")),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Folded {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Port {
        host_port: u16,
        #[serde(default)]
        host_ip: String,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Config {
        #[serde(default)]
        mtu: Option<u32>,
        #[serde(default)]
        ports: Vec<Port>,
        #[serde(default)]
        ipam: Ipam,
        #[serde(default)]
        data: BTreeMap<String, String>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Ipam {
        range: String,
        dir: String,
    }

    #[test]
    fn keys_match_in_any_letter_case_at_every_depth() {
        let value = json!({"MTU": 1400, "Ports": [{"HostPort": 80, "HostIP": ""}], "other": [1]});
        let config: Config = decode(value).unwrap();
        assert_eq!(config.mtu, Some(1400));
        assert_eq!(config.ports, [Port { host_port: 80, host_ip: String::new() }]);
    }

    #[test]
    fn the_exact_key_wins_and_null_is_absent() {
        let config: Config = decode(json!({"MTU": 1, "mtu": 2, "ports": null})).unwrap();
        assert_eq!((config.mtu, config.ports.len()), (Some(2), 0));
    }

    #[test]
    fn errors_name_field_and_value() {
        let error = decode::<Config>(json!({"ports": [{"hostPort": 70000}]})).unwrap_err();
        assert_eq!(error.to_string(), "ports[0].hostPort: invalid value: integer `70000`, expected u16");
        let error = decode::<Config>(json!({"mtu": "1500"})).unwrap_err();
        assert_eq!(error.to_string(), "mtu: invalid type: string \"1500\", expected u32");
        assert!(decode::<Config>(json!({"mtu": 1.5})).is_err());
        assert!(decode::<Config>(json!({"ports": [["a"]]})).is_err());
    }

    fn without_wrong_keys(value: &Value) -> (Config, Vec<String>) {
        let object = value.as_object().unwrap().clone();
        let (config, wrong) = decode_without_wrong_keys(object).unwrap();
        (config, wrong.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_wrong_key_is_left_out_alone_and_named() {
        let (config, wrong) = without_wrong_keys(&json!({"MTU": "x", "ports": [{"hostPort": 80}], "name": 1}));
        assert_eq!((config.mtu, config.ports.len(), wrong.len()), (None, 1, 1));
        assert!(wrong[0].starts_with("mtu: "), "{wrong:?}");
        let (config, wrong) =
            without_wrong_keys(&json!({"ipam": {"Range": 5, "dir": "/x"}, "mtu": true, "MTU": 1400, "ports": null}));
        assert_eq!((config.ipam.dir.as_str(), config.mtu, wrong.len()), ("/x", Some(1400), 2));
        assert!(without_wrong_keys(&json!({"mtu": 1})).1.is_empty());
    }

    #[test]
    fn a_list_with_a_wrong_element_is_left_out_as_a_whole() {
        let (config, wrong) =
            without_wrong_keys(&json!({"mtu": 1400, "ports": [{"hostPort": 80}, {"hostPort": "81"}]}));
        assert_eq!((config.mtu, config.ports.len()), (Some(1400), 0));
        assert!(wrong[0].starts_with("ports[1].hostPort: "), "{wrong:?}");
    }

    #[test]
    fn many_wrong_keys_go_with_what_they_are_in_and_a_missing_one_is_an_error() {
        let data: Map<String, Value> = (0..100_000).map(|n| (n.to_string(), json!(n))).collect();
        let (config, wrong) = without_wrong_keys(&json!({"mtu": 1400, "data": data}));
        assert_eq!((config.mtu, config.data.len(), wrong.len()), (Some(1400), 0, ONE_BY_ONE + 1));
        assert!(decode_without_wrong_keys::<Port>(Map::new()).is_err());
    }
}
