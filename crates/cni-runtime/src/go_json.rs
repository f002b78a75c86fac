//! JSON as Go's `encoding/json` writes a value that it has read: keys sorted, numbers as doubles, markup escaped, no spaces.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// The text of any value.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

/// The text of an object, with this text as the value of `key`, which it must not have.
pub(crate) fn text_with(object: &Map<String, Value>, key: &str, raw: Option<&str>) -> String {
    let mut entries: Vec<(&str, String)> = object.iter().map(|(key, value)| (key.as_str(), text(value))).collect();
    entries.extend(raw.map(|raw| (key, raw.to_owned())));
    entries.sort_by_key(|(key, _)| *key);
    let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{}:{value}", string(key))).collect();
    format!("{{{}}}", entries.join(","))
}

/// A string with its quotation marks.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(is) => out.push_str(if *is { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(text) => out.push_str(&string(text)),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(text).collect();
            let _ = write!(out, "[{}]", items.join(","));
        }
        Value::Object(object) => out.push_str(&text_with(object, "", None)),
    }
}

/// Go's decoder makes a double of every number, and its encoder takes the form with an exponent below 1e-6 and from 1e21 on
/// (`floatEncoder` in encoding/json/encode.go). The digits are the shortest that mean this double, in Rust too.
fn number_text(number: &Number) -> String {
    let Some(double) = number.as_f64() else { return number.to_string() };
    let size = double.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return double.to_string();
    }
    let text = format!("{double:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_that_of_go() {
        // json.Unmarshal into interface{}, then json.Marshal, with Go 1.22.
        for (input, expected) in [
            (r#"{"b": 1, "a": [true, null, "x"]}"#, r#"{"a":[true,null,"x"],"b":1}"#),
            ("1.0", "1"),
            ("-0", "-0"),
            ("1500", "1500"),
            ("0.1", "0.1"),
            ("9007199254740993", "9007199254740992"),
            ("100000000000000000000", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("1.5e300", "1.5e+300"),
            ("0.000001", "0.000001"),
            ("1.5e-7", "1.5e-7"),
            (r#""<a&b>\u2028\u0001\b\u007f\"\\é""#, "\"\\u003ca\\u0026b\\u003e\\u2028\\u0001\\b\u{7f}\\\"\\\\é\""),
        ] {
            let value: Value = serde_json::from_str(input).unwrap();
            assert_eq!(text(&value), expected, "{input}");
        }
    }

    #[test]
    fn a_text_can_be_put_between_sorted_keys() {
        let object = json!({"type": "x", "name": "n"});
        let text = text_with(object.as_object().unwrap(), "prevResult", Some(r#"{"z":1,"a":2}"#));
        assert_eq!(text, r#"{"name":"n","prevResult":{"z":1,"a":2},"type":"x"}"#);
    }
}
