//! The ports that the Go portmap publishes by nftables, in `ip cni_hostport` and `ip6 cni_hostport`: found, and removed.
//!
//! The comment of these rules is the container's ID. They don't say to which of its attachments they belong.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_plugin::Owner;
use netlink_packet_netfilter::nftables::{Cmp, DataAttribute, Expressions, Immediate};

use super::Nftables;
use super::check::data_of;
use super::error::NftError;
use super::expr::Ip;
use super::frame::{Family, TableId};
use super::legacy::{self, Found};
use super::portframe::number as protocol_number;
use super::portkeys::{forward_name, specified};
use super::probe::TableFamily;
use super::transport::Socket;
use crate::{PortForward, PortForwards};

const FAMILIES: [Ip; 2] = [Ip::V4, Ip::V6];
/// The chains with rules of containers.
const CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

const fn table(ip: Ip) -> TableId {
    TableId { family: Family::Only(ip), name: "cni_hostport" }
}

/// The container that some of these rules are for, and its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoPorts {
    /// The container's ID.
    pub container: String,
    /// Where its ports lead.
    pub address: IpAddr,
}

/// Somebody who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoHeld {
    /// Which port, in words.
    pub port: String,
    /// Whose.
    pub ports: GoPorts,
}

/// Removes all rules for this container, those of all its networks, as the Go plugin itself does. Idempotent.
pub(super) fn remove(socket: &Socket, container_id: &str) -> Result<(), NftError> {
    FAMILIES.into_iter().try_for_each(|ip| legacy::remove(socket, table(ip), &CHAINS, |id| id == container_id))
}

/// What a rule is about.
struct Read {
    container: String,
    /// The container's.
    address: IpAddr,
    /// What it publishes, if it is such a rule: protocol, host address, host port, container's port.
    published: Option<(u8, Option<IpAddr>, u16, u16)>,
}

impl Read {
    /// By the values that the rule compares with or loads, in their order. The container's address is the last one:
    /// `[ip daddr ADDRESS] tcp dport PORT dnat to ADDRESS:PORT`, or `ip saddr … ip daddr ADDRESS masquerade`.
    fn of(ip: Ip, rule: Found) -> Option<Self> {
        let values: Vec<&[u8]> = rule.expressions.iter().filter_map(data_of).filter_map(value).collect();
        let addresses: Vec<IpAddr> = values.iter().filter_map(|bytes| read_address(ip, bytes)).collect();
        let (address, before) = addresses.split_last()?;
        let protocol = values.iter().find_map(|value| if let [protocol] = value { Some(*protocol) } else { None });
        let mut ports = values.iter().filter(|value| value.len() == 2).filter_map(|value| value.first_chunk());
        let (port, to) = (ports.next(), ports.next());
        let published = protocol.zip(port.zip(to)).map(|(protocol, (port, to))| {
            (protocol, before.first().copied(), u16::from_be_bytes(*port), u16::from_be_bytes(*to))
        });
        Some(Self { container: rule.comment, address: *address, published })
    }

    fn ports(self) -> GoPorts {
        GoPorts { container: self.container, address: self.address }
    }

    /// True if both would have this port.
    fn is_for(&self, port: &PortForward) -> bool {
        let Some((protocol, address, number, _)) = self.published else { return false };
        let overlaps = address.is_none_or(|address| specified(port).is_none_or(|wanted| wanted == address));
        (protocol, number) == (protocol_number(port.protocol), port.host_port) && overlaps
    }
}

/// True if this is the rule that the Go plugin makes for the port.
fn publishes(read: &Read, owner: &Owner, port: &PortForward) -> bool {
    let wanted = (protocol_number(port.protocol), specified(port), port.host_port, port.to.port());
    read.container == owner.container_id.as_str() && read.address == port.to.ip() && read.published == Some(wanted)
}

/// What an expression compares with or loads.
fn value(expression: &Expressions) -> Option<&[u8]> {
    let data = match expression {
        Expressions::Cmp(parts) => {
            parts.iter().find_map(|part| if let Cmp::Data(data) = part { Some(data) } else { None })
        }
        Expressions::Immediate(parts) => {
            parts.iter().find_map(|part| if let Immediate::Data(data) = part { Some(data) } else { None })
        }
        _ => None,
    };
    match data? {
        DataAttribute::Value(bytes) => Some(bytes),
        _ => None,
    }
}

fn read_address(ip: Ip, bytes: &[u8]) -> Option<IpAddr> {
    match ip {
        Ip::V4 => bytes.try_into().ok().map(|bytes: [u8; 4]| bytes.into()),
        Ip::V6 => bytes.try_into().ok().map(|bytes: [u8; 16]| bytes.into()),
    }
}

impl Nftables {
    /// The containers for which the Go portmap published ports by nftables, with the addresses that these lead to. Its rules
    /// name no network, so that which of them are out of use is for the caller to tell.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn go_ports(&self) -> Result<BTreeSet<GoPorts>, NftError> {
        let mut listed = BTreeSet::new();
        for ip in FAMILIES {
            for_each(&self.socket, ip, |read| listed.extend([read.ports()]))?;
        }
        Ok(listed)
    }

    /// Those that have a port of these intents, if they are not for the intent's own container.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn go_holders(&self, intents: &[PortForwards]) -> Result<Vec<GoHeld>, NftError> {
        let mut held = Vec::new();
        for intent in intents {
            for_each(&self.socket, Ip::of(intent.container.ip()), |read| {
                let port = intent.ports.iter().find(|port| read.is_for(port));
                if let Some(port) = port.filter(|_| read.container != intent.owner.container_id.as_str()) {
                    held.push(GoHeld { port: forward_name(port), ports: read.ports() });
                }
            })?;
        }
        Ok(held)
    }

    /// True if the Go portmap publishes each of these ports, and packets come to its rules.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn go_publishes(&self, intents: &[PortForwards]) -> Result<bool, NftError> {
        for intent in intents {
            let ip = Ip::of(intent.container.ip());
            let family = if ip == Ip::V4 { TableFamily::Ip } else { TableFamily::Ip6 };
            for chain in ["prerouting", "output", "hostports_all"] {
                if !self.has_rules(family, table(ip).name, chain)? {
                    return Ok(false);
                }
            }
            let mut there = Vec::new();
            for_each(&self.socket, ip, |read| there.push(read))?;
            let is_there = |port| there.iter().any(|read| publishes(read, &intent.owner, port));
            if !intent.ports.iter().all(is_there) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the Go portmap's rules for these containers and addresses. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_go_ports(&self, those: &BTreeSet<GoPorts>) -> Result<(), NftError> {
        FAMILIES.into_iter().try_for_each(|ip| {
            legacy::remove_rules(&self.socket, table(ip), || {
                let mut found = Vec::new();
                legacy::for_each(&self.socket, table(ip), &CHAINS, |rule| {
                    let place = (rule.chain.clone(), rule.handle);
                    found.extend(
                        Read::of(ip, rule).map(Read::ports).filter(|ports| those.contains(ports)).map(|_| place),
                    );
                })?;
                Ok(found)
            })
        })
    }
}

fn for_each(socket: &Socket, ip: Ip, mut take: impl FnMut(Read)) -> Result<(), NftError> {
    legacy::for_each(socket, table(ip), &CHAINS, |rule| {
        if let Some(read) = Read::of(ip, rule) {
            take(read);
        }
    })
}
