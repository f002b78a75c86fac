//! Text to a value, with the tolerance of Go's decoder.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::Value;

/// How deep objects and lists may be nested; what is deeper counts as null. No key that a plugin knows is half as deep, and
/// `serde_json` refuses what is deeper than 127.
const DEEPEST: usize = 64;

/// Reads a document with the tolerance of Go's decoder, which doesn't validate what no field decodes: bytes in a string
/// that are not UTF-8 and halves of surrogate pairs count as U+FFFD, a number beyond a double as the largest one, and
/// nesting has no limit.
///
/// # Errors
/// What is no JSON text (RFC 8259) otherwise; the error names the line.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).or_else(|_| serde_json::from_str(&mended(text)))
}

/// The document with what only a strict reader refuses replaced. What is wrong by the grammar stays wrong.
pub(super) fn mended(text: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
