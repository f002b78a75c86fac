//! The spoof check: `bridge cni_macspoof`. A frame that arrives by a guarded port must have the port's own source address;
//! two lookups decide, so a frame costs the same with any number of containers.

use cni_plugin::{Difference, NetworkName, Owner};
use netlink_packet_netfilter::nftables::InetHookNumber;

use super::apply;
use super::element::{Element, SetId, Value};
use super::error::NftError;
use super::expr;
use super::frame::{Base, Chain, Family, Frame, Rule, TableId};
use super::plan::{Failure, Plan};
use super::set::{DataType, Maps, Set};
use super::{Nftables, check, legacy_macspoof, remove, valid_keys};
use crate::intent::{MacGuard, MacGuardHint};

const TABLE: TableId = TableId { family: Family::Bridge, name: "cni_macspoof" };
const GUARDED: SetId = SetId { table: TABLE, name: "guarded" };
const ALLOWED: SetId = SetId { table: TABLE, name: "allowed" };
const SETS: [SetId; 2] = [GUARDED, ALLOWED];
/// `NF_BR_PRI_NAT_DST_BRIDGED`: where the Go plugin checks too, before the bridge learns or forwards anything.
const BEFORE_BRIDGING: i32 = -300;

/// The table with what all containers share.
pub(super) fn frame() -> Frame {
    let rule = [
        expr::incoming_interface(),
        expr::is_in(GUARDED.name),
        expr::incoming_interface(),
        expr::ethernet_source(4),
        expr::is_not_in(ALLOWED.name),
        expr::drop(),
    ];
    Frame {
        table: TABLE,
        comment: "CNI plugins: source addresses of containers",
        sets: vec![
            Set {
                name: GUARDED.name,
                key: &[DataType::Interface],
                maps: Maps::Nothing,
                comment: "ports that are checked",
            },
            Set {
                name: ALLOWED.name,
                key: &[DataType::Interface, DataType::Ethernet],
                maps: Maps::Nothing,
                comment: "port . source address",
            },
        ],
        chains: vec![Chain {
            name: "prerouting".to_owned(),
            base: Some(Base { kind: "filter", hook: InetHookNumber::PreRouting, priority: BEFORE_BRIDGING }),
            rules: vec![Rule::new("iifname @guarded iifname . ether saddr != @allowed drop", rule)],
        }],
        by_name: |_| None,
    }
}

/// An interface name as the kernel compares it: 16 bytes, padded with zeros.
fn port_key(port: &str) -> Vec<u8> {
    let mut key = port.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// The name, then the address padded to whole registers.
fn pair_key(port: &str, mac: [u8; 6]) -> Vec<u8> {
    let mut key = port_key(port);
    key.extend(mac);
    key.resize(24, 0);
    key
}

pub(super) fn plan(guard: &MacGuard) -> Plan {
    let port = guard.port.as_str();
    let element = |set, key, name| Element { set, key, value: Value::Nothing, comment: guard.owner.comment(), name };
    Plan {
        frames: vec![frame()],
        elements: vec![
            element(GUARDED, port_key(port), format!("spoof check of {port}")),
            element(ALLOWED, pair_key(port, guard.mac.0), format!("spoof check of {port} for {}", guard.mac)),
        ],
        ..Plan::default()
    }
}

impl Nftables {
    /// Drops what arrives by the port from another address. One transaction; repeating it changes nothing.
    ///
    /// The port must exist and be the owner's: what an earlier link of that name left is replaced.
    ///
    /// # Errors
    /// [`NftError::Unusable`] if the kernel has no nf_tables for bridges; otherwise if it refuses.
    pub fn add_mac_guard(&self, guard: &MacGuard) -> Result<(), NftError> {
        let plan = plan(guard);
        match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(_)) => {
                let keys: Vec<_> = plan.elements.iter().map(|element| (element.set, element.key.clone())).collect();
                remove::remove_keys(&self.socket, &keys, &|comment| !guard.owner.wrote(comment))?;
                Ok(apply::apply(&self.socket, &plan).map(drop)?)
            }
            // Where the kernel has no nf_tables for bridges, it says that the chain does not exist, again and again.
            Err(error) => self.can_guard_macs().and(Err(error.into())),
            Ok(_) => Ok(()),
        }
    }

    /// Compares what [`Nftables::add_mac_guard`] makes with what is there. The check that the Go plugin made for the
    /// owner is as good, as long as its chains and the jump from the port are there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_mac_guard(&self, guard: &MacGuard) -> Result<Vec<Difference>, NftError> {
        let differences = check::check(&self.socket, &plan(guard))?;
        let by_go = !differences.is_empty() && legacy_macspoof::guards(&self.socket, &guard.owner, &guard.port)?;
        Ok(if by_go { Vec::new() } else { differences })
    }

    /// Removes the owner's spoof check, also the one that the Go plugin made for it (`bridge nat`). Idempotent.
    ///
    /// With a complete hint this takes constant time; `thorough` reads all elements if the hint is not enough.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_mac_guard(&self, owner: &Owner, hint: &MacGuardHint, thorough: bool) -> Result<(), NftError> {
        let port = hint.port.as_ref().map(cni_plugin::IfName::as_str);
        let mut keys: Vec<_> = port.map(|port| (GUARDED, port_key(port))).into_iter().collect();
        keys.extend(port.zip(hint.mac).map(|(port, mac)| (ALLOWED, pair_key(port, mac.0))));
        let is_mine = |comment: &str| owner.wrote(comment);
        let removed = remove::remove_keys(&self.socket, &keys, &is_mine)?;
        if thorough && removed.len() < SETS.len() {
            remove::remove_walking(&self.socket, &SETS, is_mine)?;
        }
        legacy_macspoof::remove(&self.socket, owner)
    }

    /// Removes the spoof checks of all owners of `network` that are not in `valid`, and those of the Go plugin whose port
    /// does not exist any more: their rules do not say which network they are for. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_mac_guards(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        remove::remove_walking(&self.socket, &SETS, valid_keys(network, valid))?;
        legacy_macspoof::remove_dead(&self.socket)
    }
}
