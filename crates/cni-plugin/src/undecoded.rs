//! A configuration that is decoded when a verb asks for it.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::CniError;
use crate::json::{self, DecodeError};

/// The whole configuration, not decoded yet: for a plugin whose DEL and GC must work with one that its ADD would refuse.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Undecoded(pub Map<String, Value>);

/// `args`, with what is meant for CNI plugins (CONVENTIONS.md, "args in network config").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigArgs<T> {
    /// `args.cni`
    pub cni: T,
}

impl Undecoded {
    /// Decodes all keys that `T` has; see [`json::decode`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        json::decode(Value::Object(self.0.clone()))
    }

    /// The value under `path`, a key for each object on the way.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let found = json::get(&self.0, first);
        rest.iter().fold(found, |found, key| json::get(found?.as_object()?, key))
    }

    /// The directory under `path`, `default` where there is none. A value that isn't a path is refused: the default in
    /// its place would be another directory, with other things in it.
    pub fn directory(&self, path: &[&str], default: &str) -> Result<PathBuf, CniError> {
        match self.get(path) {
            Some(Value::String(dir)) if !dir.is_empty() => Ok(PathBuf::from(dir)),
            None | Some(Value::String(_)) => Ok(PathBuf::from(default)),
            Some(other) => {
                Err(CniError::plugin(format!("{}: a path is expected, and this is {other}", path.join("."))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(value: Value) -> Undecoded {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn keys_match_in_any_letter_case_on_the_whole_way() {
        let conf = conf(json!({"IPAM": {"DataDir": "/x", "n": null}}));
        assert_eq!(conf.get(&["ipam", "dataDir"]), Some(&json!("/x")));
        assert_eq!(
            (conf.get(&["ipam", "n"]), conf.get(&["ipam", "dataDir", "x"]), conf.get(&["y"])),
            (None, None, None)
        );
        let decoded: ConfigArgs<Value> = self::conf(json!({"args": 1, "CNI": {"a": 1}})).decode().unwrap();
        assert_eq!(decoded.cni, json!({"a": 1}));
    }

    #[test]
    fn a_directory_is_a_text_or_the_default() {
        let dir = |value: Value| conf(json!({"ipam": {"dataDir": value}})).directory(&["ipam", "dataDir"], "/default");
        assert_eq!(dir(json!("/x")).unwrap(), PathBuf::from("/x"));
        assert_eq!(dir(json!("")).unwrap(), PathBuf::from("/default"));
        assert_eq!(dir(json!(null)).unwrap(), PathBuf::from("/default"));
        let refused = dir(json!(["/x"])).unwrap_err();
        assert_eq!(refused.msg, r#"ipam.dataDir: a path is expected, and this is ["/x"]"#);
    }
}
