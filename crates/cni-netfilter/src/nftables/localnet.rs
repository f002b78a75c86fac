//! The guard of `route_localnet`: where that is on, the kernel would let neighbours reach services on 127.0.0.1
//! (CVE-2020-8558). `ip cni_localnet` drops what arrives at those interfaces from or for 127.0.0.0/8.
//!
//! The guard belongs to the interface, as the sysctl does, and several containers may share it (a bridge). So it stays
//! as long as the interface exists.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::nftables::InetHookNumber;

use super::element::{self, Element, SetId, Value};
use super::error::NftError;
use super::expr::{self, Ip, Side};
use super::frame::{Base, Chain, Family, Frame, Rule, TableId};
use super::plan::Plan;
use super::remove;
use super::set::{DataType, Maps, Set};
use super::transport::Socket;
use crate::{PortForwards, links};

const TABLE: TableId = TableId { family: Family::Only(Ip::V4), name: "cni_localnet" };
const GUARDED: SetId = SetId { table: TABLE, name: "guarded" };
/// `NF_IP_PRI_RAW`: before connection tracking and any translation.
const RAW: i32 = -300;
/// The owner of a guard is its interface; a key that no attachment can have.
const COMMENT: &str = "route_localnet is on";

/// The table.
pub(super) fn frame() -> Frame {
    let loopback = IpAddr::from(Ipv4Addr::new(127, 0, 0, 0));
    let drop = |side: Side, word: &str| {
        let mut expressions = vec![expr::incoming_interface(), expr::is_in(GUARDED.name)];
        expressions.extend(expr::address_in(side, loopback, 8));
        expressions.push(expr::drop());
        Rule::new(format!("iifname @guarded ip {word} 127.0.0.0/8 drop"), expressions)
    };
    Frame {
        table: TABLE,
        comment: "CNI plugins: no access to 127.0.0.0/8 from outside",
        sets: vec![Set {
            name: GUARDED.name,
            key: &[DataType::Interface],
            maps: Maps::Nothing,
            comment: "interfaces with route_localnet",
        }],
        chains: vec![Chain {
            name: "prerouting".to_owned(),
            base: Some(Base { kind: "filter", hook: InetHookNumber::PreRouting, priority: RAW }),
            rules: vec![drop(Side::Destination, "daddr"), drop(Side::Source, "saddr")],
        }],
        by_name: |_| None,
    }
}

/// An interface name as the kernel compares it: 16 bytes, padded with zeros.
fn key(interface: &str) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// Adds the guard that an intent asks for.
pub(super) fn add(intent: &PortForwards, plan: &mut Plan) {
    let Some(interface) = &intent.guard_localnet else { return };
    if !intent.container.is_ipv4() {
        return;
    }
    if plan.frames.iter().all(|frame| frame.table != TABLE) {
        plan.frames.push(frame());
    }
    plan.elements.push(Element {
        set: GUARDED,
        key: key(interface.as_str()),
        value: Value::Nothing,
        comment: COMMENT.to_owned(),
        name: format!("guard of 127.0.0.0/8 at {interface}"),
    });
}

/// Removes the guard of one interface. Idempotent.
pub(super) fn remove(socket: &Socket, interface: &str) -> Result<(), NftError> {
    remove_guards(socket, vec![key(interface)])
}

/// Removes the guards of all interfaces that do not exist any more. Idempotent.
pub(super) fn sweep(socket: &Socket) -> Result<(), NftError> {
    let guards = element::dump(socket, GUARDED)?.into_iter().map(|found| found.key);
    let gone = guards.filter(|key| !links::padded_name_exists(socket.descriptor(), key)).collect();
    remove_guards(socket, gone)
}

fn remove_guards(socket: &Socket, keys: Vec<Vec<u8>>) -> Result<(), NftError> {
    let keys: Vec<_> = keys.into_iter().map(|key| (GUARDED, key)).collect();
    remove::remove_keys(socket, &keys, &|comment| comment == COMMENT)?;
    Ok(())
}
