//! The ports that the Go portmap publishes by nftables, in `ip cni_hostport` and `ip6 cni_hostport`: found, and removed.
//!
//! The comment of these rules is the container's ID. They don't say to which of its attachments they belong.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_netfilter::nftables::{Cmp, DataAttribute, Expressions, Immediate};

use super::check::data_of;
use super::error::NftError;
use super::expr::Ip;
use super::frame::{Family, TableId};
use super::legacy::{self, Found};
use super::transport::Socket;

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

/// Removes all rules for this container, those of all its networks, as the Go plugin itself does. Idempotent.
pub(super) fn remove(socket: &Socket, container_id: &str) -> Result<(), NftError> {
    FAMILIES.into_iter().try_for_each(|ip| legacy::remove(socket, table(ip), &CHAINS, |id| id == container_id))
}

/// All containers that have rules. A rule without an address is left out.
pub(super) fn list(socket: &Socket) -> Result<BTreeSet<GoPorts>, NftError> {
    let mut listed = BTreeSet::new();
    for ip in FAMILIES {
        legacy::for_each(socket, table(ip), &CHAINS, |rule| listed.extend(read(ip, rule)))?;
    }
    Ok(listed)
}

/// Removes the rules for these containers and addresses. Idempotent.
pub(super) fn remove_those(socket: &Socket, those: &BTreeSet<GoPorts>) -> Result<(), NftError> {
    FAMILIES.into_iter().try_for_each(|ip| {
        legacy::remove_rules(socket, table(ip), || {
            let mut found = Vec::new();
            legacy::for_each(socket, table(ip), &CHAINS, |rule| {
                let place = (rule.chain.clone(), rule.handle);
                found.extend(read(ip, rule).filter(|ports| those.contains(ports)).map(|_| place));
            })?;
            Ok(found)
        })
    })
}

/// The container's address is the last one in each of its rules: `… dnat to ADDRESS:PORT`, or
/// `ip saddr … ip daddr ADDRESS masquerade`.
fn read(ip: Ip, rule: Found) -> Option<GoPorts> {
    let values = rule.expressions.iter().rev().filter_map(data_of).filter_map(value);
    let address = values.filter_map(|bytes| read_address(ip, bytes)).next()?;
    Some(GoPorts { container: rule.comment, address })
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
