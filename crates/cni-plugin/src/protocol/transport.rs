//! Transport protocols.

use std::fmt;
use std::str::FromStr;

/// A transport protocol that has ports: the one type for it in the workspace. Displays as its lower-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
}

/// Not the name or number of a protocol that has ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol with ports: tcp, udp or sctp is expected")]
pub struct UnknownProtocol(pub String);

impl Protocol {
    /// All that there are, by number.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol field of the IP header (IANA, Assigned Internet Protocol Numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol that has this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol of this name or number: either is what variants of `iptables-save` print.
    pub fn from_name_or_number(text: &str) -> Option<Self> {
        text.parse().ok().or_else(|| Self::from_number(text.parse().ok()?))
    }

    /// The lower-case name, as `iptables` and `nft` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Takes the name in any letter case, as configurations have it.
impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        let mut named = Self::ALL.into_iter().filter(|protocol| protocol.name().eq_ignore_ascii_case(text));
        named.next().ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn names_and_numbers_lead_back() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.name().to_ascii_uppercase().parse(), Ok(protocol));
            for text in [protocol.to_string(), protocol.number().to_string()] {
                assert_eq!(Protocol::from_name_or_number(&text), Some(protocol));
            }
        }
        for text in ["", "icmp", "1", "256", "tcp "] {
            assert_eq!(Protocol::from_name_or_number(text), None, "{text:?}");
        }
        assert!("6".parse::<Protocol>().is_err());
    }
}
