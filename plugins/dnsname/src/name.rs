//! Names of containers and domains, as they are asked for: in lower case, without the final dot.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest name as text (RFC 1035, 2.3.4: 255 octets with lengths), and the longest label.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A name: labels of letters, digits, `-` and `_`, joined by dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not the right characters or lengths.
    #[error(
        "{0:?} is no name in DNS: labels of 1 to 63 letters, digits, '-' and '_' are expected, joined by dots, 253 characters in \
         all; no label begins or ends with '-'"
    )]
    Form(String),
    /// Programs don't ask for it.
    #[error("{0:?} is taken by programs for an address, and not asked for: choose a name")]
    Address(String),
    /// Means the container itself.
    #[error("{0:?} means the container itself (RFC 6761): choose another name")]
    Localhost(String),
}

impl Name {
    /// The name in this text; capitals become small letters, and a dot at the end is left out.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            let fits = (1..=LONGEST_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
            fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > LONGEST || !name.split('.').all(is_label) {
            return Err(BadName::Form(text.to_owned()));
        }
        if name.parse::<IpAddr>().is_ok() || name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(BadName::Address(text.to_owned()));
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Err(BadName::Localhost(text.to_owned()));
        }
        Ok(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Equal and hashed as its text is.
impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

/// `name` without `domain` and the dot before it, if it is below the domain.
pub fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    name.strip_suffix(domain)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["web", "Web", "a.b", "my_app-1", "x", &"x".repeat(63), "web.", "1a", "4f3c"] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Name::parse("Web.Example.").unwrap().as_str(), "web.example");
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "é", "a/b", "*", "a\0", &"x".repeat(64), &"a.".repeat(128)] {
            assert!(matches!(Name::parse(bad), Err(BadName::Form(_))), "{bad:?}");
        }
        assert!(matches!(Name::parse("10.0.0.1"), Err(BadName::Address(_))));
        assert!(matches!(Name::parse("1234"), Err(BadName::Address(_))));
        assert!(matches!(Name::parse("LOCALHOST"), Err(BadName::Localhost(_))));
    }

    #[test]
    fn a_domain_is_whole_labels() {
        assert_eq!(below("web.dns.podman", "dns.podman"), Some("web"));
        assert_eq!(below("a.b.net", "net"), Some("a.b"));
        for other in ["dns.podman", "webdns.podman", "web.dns", ".dns.podman"] {
            assert_eq!(below(other, "dns.podman"), None, "{other}");
        }
    }
}
