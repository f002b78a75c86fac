//! The guard of 127.0.0.0/8, `ip cni_localnet`: what arrives for or from there by another interface than `lo` is dropped.
//!
//! Published ports need it twice. A port on 127.0.0.1 would answer every neighbour that sends it packets for 127.0.0.1: they
//! are translated before routing could refuse them. And where `route_localnet` is on, routing doesn't refuse them, so that
//! neighbours would reach what listens on 127.0.0.1 (CVE-2020-8558). Outside of a host the range has no meaning (RFC 1122,
//! 3.2.1.3), so the guard asks for no interface and no port, has no elements, and stays.

use std::net::{IpAddr, Ipv4Addr};

use cni_plugin::Difference;
use netlink_packet_netfilter::nftables::InetHookNumber;

use super::apply;
use super::error::NftError;
use super::expr::{self, Ip, Side};
use super::frame::{Base, Chain, Family, Frame, Rule, TableId};
use super::plan::Plan;
use super::{Nftables, chains, check};

const TABLE: TableId = TableId { family: Family::Only(Ip::V4), name: "cni_localnet" };
/// `NF_IP_PRI_RAW`: before connection tracking and any translation.
const RAW: i32 = -300;
const CHAIN: &str = "guard";
/// The chain of earlier versions, which guarded only interfaces that were in a set.
const FORMER_CHAIN: &str = "prerouting";

/// The table.
pub(super) fn frame() -> Frame {
    let loopback = IpAddr::from(Ipv4Addr::new(127, 0, 0, 0));
    let drop = |side: Side, word: &str| {
        let mut expressions = expr::address_in(side, loopback, 8);
        expressions.extend(expr::arrived_by_another_interface_than("lo"));
        expressions.push(expr::drop());
        Rule::new(format!("ip {word} 127.0.0.0/8 iifname != \"lo\" drop"), expressions)
    };
    Frame {
        table: TABLE,
        comment: "CNI plugins: no access to 127.0.0.0/8 from outside",
        sets: Vec::new(),
        chains: vec![Chain {
            name: CHAIN.to_owned(),
            base: Some(Base { kind: "filter", hook: InetHookNumber::PreRouting, priority: RAW }),
            rules: vec![drop(Side::Destination, "daddr"), drop(Side::Source, "saddr")],
        }],
        by_name: |_| None,
    }
}

fn plan() -> Plan {
    Plan { frames: vec![frame()], ..Plan::default() }
}

impl Nftables {
    /// Guards 127.0.0.0/8. Idempotent: a question where the guard is there; wakes a dormant table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn guard_localnet(&self) -> Result<(), NftError> {
        apply::apply(&self.socket, &plan())?;
        Ok(())
    }

    /// What of [`Nftables::guard_localnet`] is missing or altered.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan())
    }

    /// Removes the chain with which earlier versions guarded single interfaces, if the guard is there. Idempotent.
    pub(super) fn remove_former_guard(&self) -> Result<(), NftError> {
        let is_there = |chain| chains::uses(&self.socket, TABLE, chain).map(|uses| uses.is_some());
        if is_there(FORMER_CHAIN)? && is_there(CHAIN)? {
            chains::delete(&self.socket, TABLE, FORMER_CHAIN)
        } else {
            Ok(())
        }
    }
}
