//! The result of a chain, as libcni passes it on and keeps it.

use std::ops::Deref;

use cni_plugin::{CniError, CniResult, SpecVersion, json};
use serde_json::Value;

/// What ADD of a list has made, in the version that the last plugin said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddResult {
    version: SpecVersion,
    result: CniResult,
}

/// The addresses, interfaces and so on.
impl Deref for AddResult {
    type Target = CniResult;
    fn deref(&self) -> &CniResult {
        &self.result
    }
}

impl AddResult {
    /// Reads what a plugin printed; without a version it is of the configuration's.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn of_plugin(stdout: &[u8], config_version: &str) -> Result<Self, String> {
        let value = json::parse(stdout).map_err(|error| format!("failed to unmarshal raw result: {error}"))?;
        Self::of_value(value, config_version)
    }

    /// Reads a result; without a version it is of the configuration's.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn of_value(value: Value, config_version: &str) -> Result<Self, String> {
        let stated = value.get("cniVersion").and_then(Value::as_str).filter(|version| !version.is_empty());
        let version = known(stated.unwrap_or(config_version))?;
        let result = CniResult::from_delegate(value, version).map_err(|error| error.to_string())?;
        Ok(Self { version, result })
    }

    /// The same in the shape of a configuration's version.
    ///
    /// # Errors
    /// A version that doesn't exist.
    pub(crate) fn into_version(self, version: &str) -> Result<Self, String> {
        Ok(Self { version: known(version)?, ..self })
    }

    /// The result as text: four spaces a level, in the version that the last plugin said.
    ///
    /// # Errors
    /// If an old version can't express it.
    pub fn to_json(&self) -> Result<Vec<u8>, CniError> {
        Ok(self.result.to_json(self.version)?)
    }

    /// The same without spaces, as Go's encoder writes it into a larger document.
    pub(crate) fn compact(&self) -> Result<String, String> {
        let pretty = self.result.to_json(self.version).map_err(|error| error.to_string())?;
        let pretty = String::from_utf8(pretty).map_err(|error| error.to_string())?;
        Ok(without_spaces(&pretty))
    }
}

fn known(version: &str) -> Result<SpecVersion, String> {
    let version = if version.is_empty() { "0.1.0" } else { version };
    SpecVersion::parse(version).ok_or_else(|| format!("unsupported CNI result version {version:?}"))
}

/// JSON text without what is between its tokens.
fn without_spaces(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let keeps = in_string || !c.is_ascii_whitespace();
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && *c == '\\' && !escaped;
        keeps
    };
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_in_strings_stay() {
        assert_eq!(without_spaces("{\n  \"a b\": \"c \\\" d\",\n \"e\\\\\": 1}"), r#"{"a b":"c \" d","e\\":1}"#);
    }

    #[test]
    fn a_result_keeps_its_version_and_the_order_of_its_keys() {
        let text = br#"{"cniVersion": "0.4.0", "ips": [{"address": "10.1.0.2/24", "version": "4", "interface": 0}],
            "interfaces": [{"name": "eth0", "sandbox": "/x", "mac": "02:00:00:00:00:01"}], "unknown": 1}"#;
        let result = AddResult::of_plugin(text, "1.0.0").unwrap();
        let expected = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/x"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.2/24"}],"dns":{}}"#;
        assert_eq!(result.compact().unwrap(), expected);
        assert!(
            result
                .into_version("1.1.0")
                .unwrap()
                .compact()
                .unwrap()
                .starts_with(r#"{"cniVersion":"1.1.0","interfaces""#)
        );
        assert!(AddResult::of_plugin(b"{}", "9.9.9").is_err() && AddResult::of_plugin(b"x", "").is_err());
        assert_eq!(AddResult::of_plugin(b"null", "1.0.0").unwrap().compact().unwrap(), r#"{"cniVersion":"1.0.0"}"#);
    }
}
