//! Types of data of the nft language, and values as the bytes that the kernel compares. Each part of a concatenation fills whole
//! registers of 4 bytes.

use std::net::IpAddr;

use cni_plugin::{Family, Protocol};

/// A type of data, with the number that `nft` knows it by (`enum datatypes`) and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataType {
    Address(Family),
    Ethernet,
    Protocol,
    Port,
    Interface,
    Mark,
    /// A number that `numgen` makes. The nft language has no name for its type, so a set of such is of a `typeof`.
    Number,
}

impl DataType {
    fn number(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Address(Family::V4) => 7,
            Self::Address(Family::V6) => 8,
            Self::Ethernet => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Interface => 41,
        }
    }

    /// The nft language's word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Address(Family::V4) => "ipv4_addr",
            Self::Address(Family::V6) => "ipv6_addr",
            Self::Ethernet => "ether_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Interface => "ifname",
            Self::Number => "integer",
            Self::Mark => "mark",
        }
    }

    /// In a set, in bytes.
    pub(super) fn length(self) -> u8 {
        match self {
            Self::Address(family) => family.bits() / 8,
            Self::Protocol | Self::Port | Self::Mark | Self::Number => 4,
            Self::Ethernet => 8,
            Self::Interface => 16,
        }
    }

    /// An expression of this type, for a set of a `typeof`; `None` for types that no such set of this plugin has.
    pub(super) fn expression(self) -> Option<&'static str> {
        Some(match self {
            Self::Address(Family::V4) => "ip daddr",
            Self::Address(Family::V6) => "ip6 daddr",
            Self::Protocol => "meta l4proto",
            Self::Port => "th dport",
            Self::Number => "numgen random mod 2",
            Self::Ethernet | Self::Interface | Self::Mark => return None,
        })
    }

    /// `nft`'s byte order of a single type; a concatenation has none (0).
    pub(super) fn byte_order(types: &[Self]) -> u32 {
        const HOST: u32 = 1;
        const NETWORK: u32 = 2;
        match types {
            [Self::Interface | Self::Protocol | Self::Mark | Self::Ethernet | Self::Number] => HOST,
            [_] => NETWORK,
            _ => 0,
        }
    }

    /// The number and the length of a concatenation: 6 bits for each part (`TYPE_BITS`).
    pub(super) fn concatenated(types: &[Self]) -> (u32, u32) {
        let with = |(number, length), part: &Self| (number << 6 | part.number(), length + u32::from(part.length()));
        types.iter().fold((0, 0), with)
    }
}

/// An address.
pub(crate) fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address in exactly these bytes.
pub(crate) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// An interface's whole name, padded with zeros (`IFNAMSIZ`).
pub(crate) fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// A port in a concatenation.
pub(crate) fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The port that `bytes` begin with.
pub(crate) fn read_port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|port| u16::from_be_bytes(*port))
}

/// A transport protocol in a concatenation.
pub(crate) fn protocol(protocol: Protocol) -> [u8; 4] {
    [protocol.number(), 0, 0, 0]
}
