//! JSON as the Go plugins read and write it: keys in any letter case, null as absent, markup characters escaped.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Map, Value};

/// Why a JSON value is not what is expected; the message names the field.
#[derive(Debug, thiserror::Error)]
#[error("{}{source}", prefix(.path))]
pub struct DecodeError {
    /// The field: `ipam.ranges[0][0].subnet`; `.` for the whole.
    pub path: String,
    /// What serde says about it.
    #[source]
    pub source: serde_json::Error,
}

fn prefix(path: &str) -> String {
    if path == "." { String::new() } else { format!("{path}: ") }
}

/// Decodes `value` with Go's tolerance: a struct's keys match in any letter case (an exact match wins), unknown keys are
/// ignored, null counts as absent.
///
/// Types with `#[serde(flatten)]` don't profit: serde asks for a map there, and a map's keys are data.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    serde_path_to_error::deserialize(Folded(value))
        .map_err(|error| DecodeError { path: error.path().to_string(), source: error.into_inner() })
}

/// As [`decode`], for what must work with a value that [`decode`] refuses: keys of the object that can't be decoded count
/// as absent, each as a whole. Returns with it why they were passed over.
///
/// # Errors
/// If the rest can't be decoded either, for lack of a key.
pub fn decode_what_is_right<T: DeserializeOwned>(
    object: Map<String, Value>,
) -> Result<(T, Vec<DecodeError>), DecodeError> {
    if let Ok(decoded) = decode(Value::Object(object.clone())) {
        return Ok((decoded, Vec::new()));
    }
    let mut passed_over = Vec::new();
    let mut is_right = |key: &String, value: &Value| {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        decode::<T>(Value::Object(alone)).map_err(|error| passed_over.push(error)).is_ok()
    };
    let rest: Map<String, Value> = object.into_iter().filter(|(key, value)| is_right(key, value)).collect();
    Ok((decode(Value::Object(rest))?, passed_over))
}

/// How deep objects and lists may be nested; what is deeper counts as null. No key that a plugin knows is half as deep, and
/// `serde_json` refuses what is deeper than 127.
const DEEPEST: usize = 64;

/// Reads a document with the tolerance of Go's decoder, which doesn't look closely at what nobody asks for: bytes in a string
/// that are not UTF-8 and halves of surrogate pairs count as U+FFFD, a number beyond a double as the largest one, and
/// nesting has no limit.
///
/// # Errors
/// What is no JSON text (RFC 8259) otherwise; the error names the line.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).or_else(|_| serde_json::from_str(&mended(text)))
}

/// The document without what only a strict reader refuses. What is wrong by the grammar stays wrong.
pub(crate) fn mended(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    let mut depth = 0_usize;
    let mut rest = &*text;
    while let Some(c) = rest.chars().next() {
        let token = match c {
            '"' => string(rest),
            '-' | '0'..='9' => number(rest),
            '[' | '{' if depth == DEEPEST => skipped(rest),
            _ => (c.len_utf8(), rest[..c.len_utf8()].into()),
        };
        match c {
            '[' | '{' if depth < DEEPEST => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        out.push_str(&token.1);
        rest = &rest[token.0..];
    }
    out
}

/// What a token is replaced by, after the number of bytes that it takes.
type Token<'t> = (usize, Cow<'t, str>);

/// A string, in which a `\u` escape that is half of a surrogate pair becomes `\ufffd`.
fn string(text: &str) -> Token<'_> {
    let bytes = text.as_bytes();
    let half = |at: usize, first: u32| unit(bytes, at).filter(|unit| (first..first + 0x400).contains(unit));
    let (mut at, mut copied, mut out) = (1, 0, String::new());
    loop {
        match bytes.get(at) {
            None => break,
            Some(b'"') => {
                at += 1;
                break;
            }
            Some(b'\\') if half(at, 0xd800).is_some() && half(at + 6, 0xdc00).is_some() => at += 12,
            Some(b'\\') if half(at, 0xd800).or_else(|| half(at, 0xdc00)).is_some() => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // The character after it may be a quotation mark.
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
    // A backslash before a character of more than one byte, or at the end, is no JSON, and stays as it is.
    let end = (at.min(text.len())..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    out.push_str(&text[copied..end]);
    (end, out.into())
}

/// The code unit of the escape `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = std::str::from_utf8(bytes.get(at..at + 6)?.strip_prefix(b"\\u")?).ok()?;
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
}

/// A number; one beyond a double becomes the largest that there is.
fn number(text: &str) -> Token<'_> {
    let is_part = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let number = &text[..end];
    let is_json = serde_json::from_str::<IgnoredAny>(number).is_ok();
    match number.parse::<f64>() {
        Ok(value) if is_json && value.is_infinite() => (end, format!("{:e}", value.clamp(f64::MIN, f64::MAX)).into()),
        _ => (end, number.into()),
    }
}

/// An object or a list, checked by the grammar and replaced by null. Needs no stack.
fn skipped(text: &str) -> Token<'_> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => (values.byte_offset(), "null".into()),
        // As it is, so that it stays wrong.
        _ => (text.len(), text.into()),
    }
}

/// Looks `key` up in an object in any letter case; an exact match wins, null counts as absent.
pub fn get<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    object
        .get(key)
        .or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
        .filter(|value| !value.is_null())
}

/// The text that goes to stdout: four spaces a level, no newline at the end, `<`, `>` and `&` escaped as Go does.
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing into memory what consists of strings, numbers and lists doesn't fail; an empty document would be noticed.
    if value.serialize(&mut serializer).is_err() {
        out.clear();
    }
    escape_markup(out)
}

/// These characters stand only inside strings in JSON text, so they can be replaced without parsing.
fn escape_markup(text: Vec<u8>) -> Vec<u8> {
    let Ok(text) = String::from_utf8(text) else { return Vec::new() };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into_bytes()
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
    }

    #[test]
    fn keys_match_in_any_letter_case_at_every_depth() {
        let value = json!({"MTU": 1400, "Ports": [{"HostPort": 80, "HostIP": ""}], "other": [1]});
        let config: Config = decode(value).unwrap();
        assert_eq!(config, Config { mtu: Some(1400), ports: vec![Port { host_port: 80, host_ip: String::new() }] });
    }

    #[test]
    fn the_exact_key_wins_and_null_is_absent() {
        let config: Config = decode(json!({"MTU": 1, "mtu": 2, "ports": null})).unwrap();
        assert_eq!(config, Config { mtu: Some(2), ports: vec![] });
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

    #[test]
    fn what_is_wrong_is_passed_over_and_named() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let (config, passed_over) =
            decode_what_is_right::<Config>(object(json!({"MTU": "x", "ports": [{"hostPort": 80}], "name": 1})))
                .unwrap();
        assert_eq!((config.mtu, config.ports.len()), (None, 1));
        assert_eq!(passed_over.len(), 1);
        assert!(passed_over[0].to_string().starts_with("mtu: "), "{}", passed_over[0]);
        let (config, passed_over) =
            decode_what_is_right::<Config>(object(json!({"mtu": 1400, "ports": [{"hostPort": 80}, 5]}))).unwrap();
        assert_eq!((config.mtu, config.ports.len(), passed_over.len()), (Some(1400), 0, 1));
        assert!(decode_what_is_right::<Config>(object(json!({"mtu": 1}))).unwrap().1.is_empty());
    }

    fn parsed(text: &[u8]) -> Result<Value, String> {
        parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_go_reads_is_read() {
        let text = b"{\"a\":\"J\xfcrgen \\ud83d x \\udc00\\ud83d\\ude00\\\\ud83d\\\"\",\"b\":[1e400,-1e400,1E+999,10],\"c\":1}";
        let value = parsed(text).unwrap();
        assert_eq!(value["a"], "J\u{fffd}rgen \u{fffd} x \u{fffd}\u{1f600}\\ud83d\"");
        assert_eq!(value["b"], json!([f64::MAX, f64::MIN, f64::MAX, 10]));
        assert_eq!(value["c"], 1);
        let deep = format!(r#"{{"x":{}1{},"y":{{"z":[1e400]}}}}"#, "[".repeat(9000), "]".repeat(9000));
        assert_eq!(parsed(deep.as_bytes()).unwrap()["y"], json!({"z": [f64::MAX]}));
        let deep = format!(r#"{{"x":{}null{},"y":2}}"#, r#"{"x":"#.repeat(300), "}".repeat(300));
        assert_eq!(parsed(deep.as_bytes()).unwrap()["y"], 2);
    }

    #[test]
    fn nonsense_stays_an_error_that_names_the_line() {
        let deep = format!("{}1,{}", "[".repeat(200), "]".repeat(200));
        let unbalanced = format!("{}1{}", "[".repeat(200), "]".repeat(199));
        for bad in [
            "",
            "{",
            "1e400.5",
            "01e400",
            "+1e400",
            "[1e400",
            "\"\\ud83",
            "\"\\ud83d",
            "\"\\+d8d",
            "\"\\\u{e9}\"",
            "\"a\nb\\ud83d\"",
            "{\"a\":1e400,}",
            "{\"a\":1e400} x",
            "\u{fffd}",
            &deep,
            &unbalanced,
        ] {
            assert!(parsed(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parsed(b"{\"a\":1,\xff}").is_err());
        let error = parsed(b"{\"a\":\"\xff\",\n\"b\":}").unwrap_err();
        assert!(error.contains("line 2 column"), "{error}");
    }

    #[test]
    fn markup_is_escaped_as_go_does() {
        assert_eq!(pretty(&json!("<a&b>\u{2028}")), br#""\u003ca\u0026b\u003e\u2028""#);
    }
}
