//! `CNI_ARGS`: `KEY=value` pairs joined by `;` (deprecated in the spec, still in use).

use std::collections::BTreeMap;

/// Why `CNI_ARGS` was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Not one `=` in a segment.
    #[error("CNI_ARGS: invalid pair {0:?}: KEY=value pairs joined by ';' are expected")]
    Pair(String),
    /// Keys that the plugin doesn't know.
    #[error("CNI_ARGS: unknown args {0:?}: add IgnoreUnknown=1 to ignore them")]
    Unknown(Vec<String>),
    /// `IgnoreUnknown` with something else than a truth value.
    #[error("CNI_ARGS: IgnoreUnknown={0:?}: expected 1, true, 0 or false")]
    IgnoreUnknown(String),
}

/// The text of `CNI_ARGS`, to be read by the plugins that care; the others ignore it, whatever it says.
#[derive(Debug, Clone, Default)]
pub struct CniArgs(pub(crate) String);

impl CniArgs {
    /// The variable's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value of one key, whatever else there is; the last, if it is given twice.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.split(';').rev().find_map(|segment| segment.strip_prefix(key)?.strip_prefix('='))
    }

    /// The values of the `known` keys, which are case-sensitive. Other keys are refused unless `IgnoreUnknown` is true.
    /// Of a key that is given twice the last counts.
    pub fn parse(&self, known: &[&'static str]) -> Result<BTreeMap<&'static str, String>, ArgsError> {
        let mut values = BTreeMap::new();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        let segments = if self.0.is_empty() { Vec::new() } else { self.0.split(';').collect() };
        for segment in segments {
            let (key, value) = segment
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| ArgsError::Pair(segment.to_owned()))?;
            if key == "IgnoreUnknown" {
                ignore_unknown = truth(value)?;
            } else if let Some(known) = known.iter().find(|known| **known == key) {
                values.insert(*known, value.to_owned());
            } else {
                unknown.push(segment.to_owned());
            }
        }
        if unknown.is_empty() || ignore_unknown { Ok(values) } else { Err(ArgsError::Unknown(unknown)) }
    }
}

fn truth(value: &str) -> Result<bool, ArgsError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(ArgsError::IgnoreUnknown(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<&'static str, String>, ArgsError> {
        CniArgs(text.to_owned()).parse(&["MAC", "IP"])
    }

    #[test]
    fn known_keys_are_returned() {
        assert_eq!(parse("").unwrap(), BTreeMap::new());
        assert_eq!(
            parse("IP=10.0.0.5;MAC=").unwrap(),
            BTreeMap::from([("IP", "10.0.0.5".into()), ("MAC", String::new())])
        );
    }

    #[test]
    fn pairs_have_exactly_one_equals_sign() {
        for bad in ["IP", "IP=1;", ";IP=1", "IP=a=b"] {
            assert!(matches!(parse(bad), Err(ArgsError::Pair(_))), "{bad}");
        }
    }

    #[test]
    fn unknown_keys_need_ignore_unknown_anywhere() {
        assert_eq!(parse("FOO=bar"), Err(ArgsError::Unknown(vec!["FOO=bar".into()])));
        assert!(parse("ip=10.0.0.5").is_err());
        assert!(parse("FOO=bar;IgnoreUnknown=1").is_ok());
        assert!(parse("IgnoreUnknown=TRUE;FOO=bar").is_ok());
        assert!(parse("FOO=bar;IgnoreUnknown=0").is_err());
        assert_eq!(parse("IgnoreUnknown=yes"), Err(ArgsError::IgnoreUnknown("yes".into())));
    }
}
