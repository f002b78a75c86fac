//! The packet that is followed, and what connection tracking knows of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::{Family, MacAddr, Protocol};

/// The client's port: the first of Linux's ephemeral ports, as a rule for some source ports decides nothing about the others.
pub(crate) const CLIENT_PORT: u16 = 32768;
/// What a packet without payload has: the headers of IPv4 and TCP with the options of a SYN.
pub(crate) const SMALL: u32 = 60;

/// A packet on its way through one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// `None` is an ICMP echo, whose "ports" are 0.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    /// In bytes, with the IP header.
    pub(crate) length: u32,
    /// The link that it arrived by and the one that it leaves by, in the present namespace.
    pub(crate) iif: Option<String>,
    pub(crate) oif: Option<String>,
    pub(crate) src_mac: Option<MacAddr>,
    pub(crate) dst_mac: Option<MacAddr>,
    pub(crate) mark: u32,
    pub(crate) ct: Option<Tracked>,
    /// It is the answer of the destination.
    pub(crate) is_reply: bool,
}

/// A connection of one namespace, as its connection tracking sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Source and destination of the first packet as it came.
    pub(crate) original: (SocketAddr, SocketAddr),
    /// Source and destination of an answer as it will come.
    pub(crate) reply: (SocketAddr, SocketAddr),
    pub(crate) mark: u32,
}

/// What connection tracking says about a packet.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) original: (SocketAddr, SocketAddr),
    /// Which connection of the namespace it answers.
    pub(crate) answers: Option<usize>,
    pub(crate) dnat: bool,
    pub(crate) snat: bool,
    pub(crate) mark: u32,
}

impl Tracked {
    pub(crate) fn state(&self) -> &'static str {
        if self.answers.is_some() { "established" } else { "new" }
    }
}

impl Packet {
    pub(crate) fn new(protocol: Option<Protocol>, src: IpAddr, dst: IpAddr, port: u16) -> Self {
        let client = if protocol.is_some() { CLIENT_PORT } else { 0 };
        Self {
            protocol,
            src: SocketAddr::new(src, client),
            dst: SocketAddr::new(dst, port),
            length: SMALL,
            iif: None,
            oif: None,
            src_mac: None,
            dst_mac: None,
            mark: 0,
            ct: None,
            is_reply: false,
        }
    }

    /// The answer to this packet, as the program that got it sends it.
    pub(crate) fn answer(&self) -> Self {
        let (src, dst) = (self.dst, self.src);
        Self { src, dst, is_reply: true, length: SMALL, ..self.clone() }.fresh()
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.dst.ip())
    }

    /// The packet as it enters another namespace: mark and connection are left behind (`skb_scrub_packet`).
    pub(crate) fn fresh(mut self) -> Self {
        (self.iif, self.oif, self.ct, self.mark) = (None, None, None, 0);
        self
    }

    pub(crate) fn protocol_name(&self) -> &'static str {
        match (self.protocol, self.family()) {
            (Some(protocol), _) => protocol.name(),
            (None, Family::V4) => "icmp",
            (None, Family::V6) => "ipv6-icmp",
        }
    }

    pub(crate) fn protocol_number(&self) -> u8 {
        match (self.protocol, self.family()) {
            (Some(protocol), _) => protocol.number(),
            (None, Family::V4) => 1,
            (None, Family::V6) => 58,
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Some(protocol) => write!(f, "{protocol} {} -> {}", self.src.ip(), self.dst),
            None => write!(f, "ping {} -> {}", self.src.ip(), self.dst.ip()),
        }
    }
}
