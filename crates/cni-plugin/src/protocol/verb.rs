//! The verbs of the protocol (SPEC.md, "CNI operations"), and which version of the configuration each needs.

use std::fmt;

use crate::protocol::error::{CniError, code};
use crate::protocol::version::SpecVersion;

/// What the runtime asks for, from `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Attach a container.
    Add,
    /// Detach it; succeeds if there is nothing to do.
    Del,
    /// Compare what is there with what ADD made.
    Check,
    /// Remove what belongs to attachments that are no longer valid.
    Gc,
    /// Say whether an ADD could succeed now.
    Status,
    /// Say which versions are supported.
    Version,
}

impl Verb {
    /// The verb with exactly this text; verbs are upper case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    /// The verb as `CNI_COMMAND` carries it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version that has the verb, if not all have it.
    pub(crate) fn since(self) -> Option<SpecVersion> {
        match self {
            Self::Check => Some(SpecVersion::V0_4_0),
            Self::Gc | Self::Status => Some(SpecVersion::V1_1_0),
            Self::Add | Self::Del | Self::Version => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Up to three dotted numbers, as versions are compared; `None` if the text isn't that.
fn numbers(text: &str) -> Option<[u64; 3]> {
    let mut numbers = [0; 3];
    let mut parts = text.split('.');
    for (number, part) in numbers.iter_mut().zip(&mut parts) {
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Decides whether a configuration of version `text` may be used with `verb` by a plugin that speaks `supported`.
///
/// The order of the refusals is that of the Go skeleton: CHECK, GC and STATUS first ask whether the version is old or
/// new enough for the verb, then every verb wants an exact match.
pub(crate) fn gate(text: &str, verb: Verb, supported: &[SpecVersion]) -> Result<SpecVersion, CniError> {
    let text = if text.is_empty() { "0.1.0" } else { text };
    if let Some(since) = verb.since() {
        let wanted = numbers(text).ok_or_else(|| {
            CniError::new(
                code::DECODE,
                format!("cniVersion {text:?} is not a version: three dotted numbers are expected"),
            )
        })?;
        if Some(wanted) < numbers(since.as_str()) {
            let msg = format!("config version does not allow {verb}");
            return Err(CniError::new(code::VERSION, msg)
                .details(format!("cniVersion is {text:?}, {verb} exists since {since}")));
        }
        if supported.iter().all(|version| numbers(version.as_str()) < Some(wanted)) {
            let msg = format!("plugin version does not allow {verb}");
            return Err(CniError::new(code::VERSION, msg).details(mismatch(text, supported)));
        }
    }
    SpecVersion::parse(text)
        .filter(|version| supported.contains(version))
        .ok_or_else(|| CniError::new(code::VERSION, "incompatible CNI versions").details(mismatch(text, supported)))
}

fn mismatch(text: &str, supported: &[SpecVersion]) -> String {
    let quoted: Vec<String> = supported.iter().map(|version| format!("{:?}", version.as_str())).collect();
    format!("config is {text:?}, plugin supports [{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str, verb: Verb) -> (u32, String) {
        let error = gate(text, verb, SpecVersion::ALL).unwrap_err();
        (error.code, error.msg)
    }

    #[test]
    fn a_missing_version_is_0_1_0() {
        assert_eq!(gate("", Verb::Add, SpecVersion::ALL).unwrap(), SpecVersion::V0_1_0);
    }

    #[test]
    fn verbs_have_their_versions() {
        assert_eq!(refusal("0.3.1", Verb::Check), (1, "config version does not allow CHECK".into()));
        assert_eq!(refusal("1.0.0", Verb::Gc), (1, "config version does not allow GC".into()));
        assert_eq!(refusal("1.0.0", Verb::Status), (1, "config version does not allow STATUS".into()));
        assert_eq!(refusal("9.9.9", Verb::Check), (1, "plugin version does not allow CHECK".into()));
        assert_eq!(refusal("0.4.1", Verb::Check), (1, "incompatible CNI versions".into()));
        assert!(gate("0.4.0", Verb::Check, SpecVersion::ALL).is_ok());
        assert!(gate("1.1.0", Verb::Gc, SpecVersion::ALL).is_ok());
    }

    #[test]
    fn nonsense_is_a_decoding_error_only_where_versions_are_compared() {
        assert_eq!(refusal("abc", Verb::Check).0, 6);
        assert_eq!(refusal("1.0.0.0", Verb::Gc).0, 6);
        assert_eq!(refusal("abc", Verb::Add), (1, "incompatible CNI versions".into()));
        assert_eq!(refusal("9.9.9", Verb::Del), (1, "incompatible CNI versions".into()));
    }

    #[test]
    fn details_list_both_sides() {
        let error = gate("9.9.9", Verb::Add, &[SpecVersion::V0_4_0, SpecVersion::V1_0_0]).unwrap_err();
        assert_eq!(error.details, r#"config is "9.9.9", plugin supports ["0.4.0" "1.0.0"]"#);
    }
}
