//! A value to the text that goes to stdout.

use serde::Serialize;

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn markup_is_escaped_as_go_does() {
        assert_eq!(pretty(&json!("<a&b>\u{2028}")), br#""\u003ca\u0026b\u003e\u2028""#);
    }
}
