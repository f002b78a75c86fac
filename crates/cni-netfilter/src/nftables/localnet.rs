//! The guard of 127.0.0.0/8, `ip cni_localnet`: what arrives for or from there by another interface than `lo` is dropped.
//!
//! Published ports need it twice. A port on 127.0.0.1 would answer every neighbour that sends it packets for 127.0.0.1: they
//! are translated before routing could refuse them. And where `route_localnet` is on, routing doesn't refuse them, so that
//! neighbours would reach what listens on 127.0.0.1 (CVE-2020-8558). Outside of a host the range has no meaning (RFC 1122,
//! 3.2.1.3), so the guard names no interface and no port, has no elements, and stays.

use std::net::{IpAddr, Ipv4Addr};

use cni_plugin::Difference;
use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, Operator};

use super::Nftables;
use super::owned::{Plan, apply, check};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{Chain, Rule, Skeleton, data};
use super::wire::{NftError, Table, TableFamily};

/// `NF_IP_PRI_RAW`: before connection tracking and any translation.
const RAW: i32 = -300;

/// `ip <side> 127.0.0.0/8 iifname != "lo" drop`. A packet of the node's own has no incoming interface, and so another one than `lo`.
fn drop_from_outside(side: Side) -> Rule {
    let mut rule = expr::address_in(side, IpAddr::from(Ipv4Addr::new(127, 0, 0, 0)), 8);
    let not_loopback = expr::compare(Operator::NotEqual, data::interface("lo"));
    rule.extend([expr::meta(MetaKey::Iifname, 0), not_loopback, expr::drop()]);
    rule
}

/// The table.
pub(super) fn skeleton() -> Skeleton {
    let rules = [Side::Destination, Side::Source].map(drop_from_outside).to_vec();
    Skeleton {
        table: Table { family: TableFamily::Ip, name: "cni_localnet" },
        comment: "CNI plugins: no access to 127.0.0.0/8 from outside",
        sets: Vec::new(),
        chains: vec![Chain::base("guard", "filter", InetHookNumber::PreRouting, RAW, rules)],
        by_name: |_| None,
    }
}

fn plan() -> Plan {
    Plan::new(skeleton(), Vec::new())
}

impl Nftables {
    /// Guards 127.0.0.0/8. Idempotent: a request where the guard is there; wakes a dormant table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_localnet_guard(&self) -> Result<(), NftError> {
        apply::apply(&self.socket, &plan())?;
        Ok(())
    }

    /// What of [`Nftables::add_localnet_guard`] is missing or altered.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan())
    }
}
