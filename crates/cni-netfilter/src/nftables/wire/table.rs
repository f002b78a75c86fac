//! Which table a message is about.

use std::fmt;

use cni_plugin::Family;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

/// The family of a table. Displays as the nft language has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableFamily {
    /// `inet`: IPv4 and IPv6.
    Inet,
    /// `ip`: IPv4.
    Ip,
    /// `ip6`: IPv6.
    Ip6,
    /// `bridge`.
    Bridge,
}

impl TableFamily {
    /// `NFPROTO_…` (linux/netfilter.h).
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    /// The only address family of such a table; `None` if it has both or neither.
    pub(crate) fn address_family(self) -> Option<Family> {
        Family::ALL.into_iter().find(|family| Self::from(*family) == self)
    }
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ip,
            Family::V6 => Self::Ip6,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
        })
    }
}

/// A table's family and name. Displays as the nft language has it: `inet cni_masquerade`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Table<'a> {
    pub(crate) family: TableFamily,
    pub(crate) name: &'a str,
}

impl Table<'_> {
    /// A request about something in this table, outside of a transaction.
    pub(crate) fn request(self, message: NfTablesMessage) -> NetfilterMessage {
        NetfilterMessage::new(header(self.family), message)
    }
}

/// The header of a message about tables of `family`.
pub(super) fn header(family: TableFamily) -> NetfilterHeader {
    NetfilterHeader::new(NetfilterProtoFamily::from(family.number()), 0, 0)
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}
