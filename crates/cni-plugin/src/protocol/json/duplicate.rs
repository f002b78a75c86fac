//! Keys that a JSON object has twice, which are lost once the text has become a value.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::parse::mended;

/// The first key that stands twice in the object at `path` (the keys that lead there, in any letter case) of the JSON
/// document `text`. `None` if there is none, if nothing is there, or if the text isn't JSON.
///
/// Keys that differ in letter case only are different: this is for objects whose keys are data.
pub(crate) fn key(text: &[u8], path: &[&str]) -> Option<String> {
    // Errors in the text have been reported by the time that this is called.
    search(text, path).or_else(|_| search(mended(text).as_bytes(), path)).unwrap_or_default()
}

fn search(text: &[u8], path: &[&str]) -> Result<Option<String>, serde_json::Error> {
    let mut search = Search { path, seen: BTreeSet::new(), found: None };
    Step { search: &mut search, depth: 0 }.deserialize(&mut serde_json::Deserializer::from_slice(text))?;
    Ok(search.found)
}

struct Search<'p> {
    path: &'p [&'p str],
    seen: BTreeSet<String>,
    found: Option<String>,
}

struct Step<'s, 'p> {
    search: &'s mut Search<'p>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Step<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let wanted = self.search.path.get(self.depth).copied();
        while let Some(key) = map.next_key::<String>()? {
            match wanted {
                Some(wanted) if key.eq_ignore_ascii_case(wanted) => {
                    map.next_value_seed(Step { search: &mut *self.search, depth: self.depth + 1 })?;
                    continue;
                }
                None if !self.search.seen.insert(key.clone()) => {
                    self.search.found.get_or_insert(key);
                }
                _ => {}
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    // Values other than objects have no keys.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn only_keys_of_the_object_at_the_path_count() {
        let text = br#"{"x":{"a":1,"a":2},"SYSCTL":{"a":"1","b":[1,{"c":1,"c":2}],"b":null},"y":-1.5}"#;
        assert_eq!(key(text, &["sysctl"]).as_deref(), Some("b"));
        assert_eq!(key(text, &["x"]).as_deref(), Some("a"));
        assert_eq!(key(text, &["y"]), None);
        assert_eq!(key(br#"{"sysctl":{"a":1,"A":2}}"#, &["sysctl"]), None);
    }

    #[test]
    fn an_object_in_two_parts_is_one_object() {
        let text = br#"{"args":{"cni":{"sysctl":{"a":"1"}}},"args":{"cni":{"sysctl":{"a":"2"}}}}"#;
        assert_eq!(key(text, &["args", "cni", "sysctl"]).as_deref(), Some("a"));
    }

    #[test]
    fn values_that_only_go_decodes_hide_no_duplicate() {
        let text = br#"{"x":{"\ud83d":1e400},"sysctl":{"a":"1","a":"2"},"y":"\udc00"}"#;
        assert_eq!(key(text, &["sysctl"]).as_deref(), Some("a"));
    }

    #[test]
    fn what_is_no_such_document_has_no_duplicates() {
        for text in [r#"{"sysctl":3}"#, r#"{"sysctl":[true,"a"]}"#, "[]", "", "{", r#"{"sysctl":{"a":1}"#] {
            assert_eq!(key(text.as_bytes(), &["sysctl"]), None, "{text}");
        }
    }
}
