//! The names of the protocol as types: parsed once at the edge, trusted inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A container ID or network name with a character that the spec does not allow.
    #[error(
        "{what} {value:?} is not valid: it must start with a letter or a digit, then letters, digits, '_', '.' or '-'"
    )]
    Charset {
        /// Which name it is, in the words of a message.
        what: &'static str,
        /// The refused text.
        value: String,
    },
    /// An interface name that the kernel would refuse.
    #[error("interface name {value:?} is not valid: {why}")]
    Interface {
        /// The refused text.
        value: String,
        /// The kernel's rule that it breaks.
        why: &'static str,
    },
    /// A hardware address that is not six hexadecimal bytes.
    #[error("MAC address {value:?} is not valid: six pairs of hexadecimal digits joined by ':' or '-' are expected")]
    Mac {
        /// The refused text.
        value: String,
    },
}

/// True if `text` matches `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$` (SPEC.md, "Network configuration format").
fn is_spec_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

macro_rules! spec_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_spec_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::Charset { what: $what, value: text.to_owned() })
                }
            }
        }

        text_newtype!($name);
    };
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        /// As the text in quotes: messages are made with it.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

spec_name!(
    /// A container ID: the runtime's name for the container, of any length. Safe in a path and in a rule's comment.
    ContainerId,
    "container ID"
);
spec_name!(
    /// A network's name, of any length. Safe as one path element and in a rule's comment.
    NetworkName,
    "network name"
);

/// The name of a network interface, by the kernel's rules (`dev_valid_name` in `net/core/dev.c`):
/// 1 to 15 bytes, not `.` or `..`, without `/`, `:` and white space; and without `%`, which no link's name has, as the
/// kernel takes such a name for a pattern (`dev_alloc_name`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl FromStr for IfName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > 15 {
            "it is longer than 15 bytes"
        } else if text == "." || text == ".." {
            "'.' and '..' are not allowed"
        } else if text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace()) {
            "'/', ':' and white space are not allowed"
        } else if text.contains('%') {
            "'%' is not allowed: the kernel would put a number in the place of \"%d\""
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(NameError::Interface { value: text.to_owned(), why })
    }
}
text_newtype!(IfName);

/// An Ethernet hardware address. Displays in lower case with colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl FromStr for MacAddr {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Mac { value: text.to_owned() };
        // As Go's net.ParseMAC: 02:00:00:00:00:01, 02-00-00-00-00-01, 0200.0000.0001.
        let (separator, parts, digits) = match text.find(['-', '.']).and_then(|at| text.get(at..at + 1)) {
            Some(".") => (".", 3, 4),
            Some(_) => ("-", 6, 2),
            None => (":", 6, 2),
        };
        let is_part = |part: &str| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
        if text.split(separator).count() != parts || !text.split(separator).all(is_part) {
            return Err(refused());
        }
        let number = u64::from_str_radix(&text.replace(separator, ""), 16).map_err(|_| refused())?;
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

impl TryFrom<String> for MacAddr {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_names_follow_the_spec_charset() {
        for good in ["a", "0", "3f2a", "a_b.c-d", "A..b"] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", "-x", ".x", "_x", "a b", "a/b", "a\n", "é", "a:b"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "a", "abcdefghijklmno", "br-1.100", "é"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        assert_eq!(format!("{:?}", "eth0".parse::<IfName>().unwrap()), "\"eth0\"");
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "eth%d", "a%", "abcdefghijklmnop", "ééééééé\u{e9}"]
        {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mac_addresses_are_six_bytes() {
        let mac: MacAddr = "0A:00:00:00:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:00:00:00:00:ff");
        assert_eq!("0a-00-00-00-00-ff".parse(), Ok(mac));
        assert_eq!("0a00.0000.00ff".parse(), Ok(mac));
        for bad in [
            "",
            "0a00.0000.00f",
            "0a00.0000",
            "0a00.0000.00ff.0000",
            "0a00-0000-00ff",
            "0a:00-00:00-00:ff",
            "0a:00:00:00:00",
            "0a:00:00:00:00:00:00",
            "+a:00:00:00:00:00",
            "a:0:0:0:0:0",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad:?}");
        }
    }
}
