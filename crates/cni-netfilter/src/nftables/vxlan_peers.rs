//! Who may send VXLAN packets to this node: `inet cni_vxlan`. One lookup for a UDP packet to another port, two for one to a guarded
//! port, however many peers there are.
//!
//! It sits before connection tracking: what is dropped leaves no entry there.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::{Difference, Family, Protocol};
use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};
use rustix::io::Errno;

use super::Nftables;
use super::owned::{Plan, apply, check};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{Chain, DataType, Element, Key, Maps, Rule, Set, SetId, Skeleton, Value, data, element};
use super::wire::{Batch, GENERATION_CHANGED, NftError, Table, TableFamily};
use crate::intent::VxlanPeers;

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "cni_vxlan" };
const PORTS: SetId = SetId { table: TABLE, name: "ports" };
/// `NF_IP_PRI_RAW`.
const RAW: i32 = -300;
/// How often a deletion is tried while other programs change the rule set.
const ATTEMPTS: u32 = 200;

fn peers_of(family: Family) -> SetId {
    SetId { table: TABLE, name: if family == Family::V4 { "peers4" } else { "peers6" } }
}

/// `th dport . ip saddr @peers4 return`.
fn returns(family: Family) -> Rule {
    let mut rule = expr::only(family).to_vec();
    rule.extend([expr::port(Side::Destination, 0), expr::address(family, Side::Source, 1)]);
    rule.extend([expr::is_in(peers_of(family).name), expr::return_()]);
    rule
}

fn skeleton() -> Skeleton {
    let guarded = vec![
        expr::meta(MetaKey::L4Proto, 0),
        expr::port(Side::Destination, 1),
        expr::is_in(PORTS.name),
        expr::jump("peers"),
    ];
    let set = |id: SetId, key, comment| Set { name: id.name, key, maps: Maps::Nothing, comment };
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: who may send VXLAN packets",
        sets: vec![
            set(PORTS, &[DataType::Protocol, DataType::Port], "ports of VXLAN devices"),
            set(peers_of(Family::V4), &[DataType::Port, DataType::Address(Family::V4)], "port . peer"),
            set(peers_of(Family::V6), &[DataType::Port, DataType::Address(Family::V6)], "port . peer"),
        ],
        chains: vec![
            Chain::base("guard", "filter", InetHookNumber::PreRouting, RAW, vec![guarded]),
            Chain::regular("peers", vec![returns(Family::V4), returns(Family::V6), vec![expr::drop()]]),
        ],
        by_name: |_| None,
    }
}

fn port_element(port: u16) -> Element {
    let bytes = [data::protocol(Protocol::Udp), data::port(port)].concat();
    planned(Key::new(PORTS, bytes), format!("guard of UDP port {port}"))
}

fn peer_element(port: u16, peer: IpAddr) -> Element {
    let bytes = [data::port(port).to_vec(), data::address(peer)].concat();
    planned(Key::new(peers_of(Family::of(peer)), bytes), format!("peer {peer} of UDP port {port}"))
}

fn planned(key: Key, name: String) -> Element {
    // All are of one owner, the node.
    Element { key, value: Value::Nothing, comment: "vxlan".to_owned(), name }
}

/// The elements that are wanted, each once.
fn elements(wanted: &[VxlanPeers]) -> Vec<Element> {
    let of_port = |wanted: &VxlanPeers| {
        let port = wanted.port;
        let peers: Vec<Element> = wanted.peers.iter().map(|peer| peer_element(port, *peer)).collect();
        [vec![port_element(port)], peers].concat()
    };
    let mut seen = HashSet::new();
    wanted.iter().flat_map(of_port).filter(|element| seen.insert(element.key.clone())).collect()
}

impl Nftables {
    /// Makes these the guarded ports and their peers, and no others, in one transaction. Idempotent. The table comes before, if it is
    /// missing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn set_vxlan_peers(&self, wanted: &[VxlanPeers]) -> Result<(), NftError> {
        if !wanted.is_empty() {
            apply::apply(&self.socket, &Plan::new(skeleton(), Vec::new()))?;
        }
        let elements = elements(wanted);
        for _ in 0..ATTEMPTS {
            let generation = self.socket.generation()?;
            let found = self.vxlan_elements()?;
            let keep: HashSet<&Key> = elements.iter().map(|element| &element.key).collect();
            let mut surplus: Vec<&Key> = found.iter().filter(|key| !keep.contains(key)).collect();
            surplus.sort_unstable();
            let missing: Vec<&Element> = elements.iter().filter(|element| !found.contains(&element.key)).collect();
            if surplus.is_empty() && missing.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            batch.delete_elements(surplus);
            batch.create_elements(missing);
            match self.socket.commit(&batch, Some(generation)) {
                Err(error) if matches!(error.errno(), Some(GENERATION_CHANGED | Errno::NOENT)) => {}
                outcome => return outcome,
            }
        }
        Err(NftError::Contended { what: "change the VXLAN peers".into(), attempts: ATTEMPTS })
    }

    /// What of a port's guard is missing or altered.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub(crate) fn check_vxlan_peers(&self, wanted: &VxlanPeers) -> Result<Vec<Difference>, NftError> {
        let mut differences = check::check(&self.socket, &Plan::new(skeleton(), Vec::new()))?;
        let found = self.vxlan_elements()?;
        let elements = elements(std::slice::from_ref(wanted));
        let missing = elements.iter().filter(|element| !found.contains(&element.key));
        differences.extend(missing.map(|element| Difference::missing(&element.name)));
        Ok(differences)
    }

    /// What is in the sets: three requests, however many there are.
    fn vxlan_elements(&self) -> Result<HashSet<Key>, NftError> {
        let mut found = HashSet::new();
        for set in [PORTS, peers_of(Family::V4), peers_of(Family::V6)] {
            found.extend(element::dump(&self.socket, set)?.into_iter().map(|found| found.key));
        }
        Ok(found)
    }

    /// Asks the kernel whether it can filter by peers.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub(crate) fn can_set_vxlan_peers(&self) -> Result<(), NftError> {
        apply::rehearse(&self.socket, [&skeleton()]).map_err(|refused| {
            refused.or_unusable("filter UDP packets in nftables", "nf_tables with CONFIG_NF_TABLES_INET")
        })
    }

    /// What [`crate::Netfilter::set_vxlan_peers`] makes in an empty network namespace. Asks the kernel nothing.
    pub fn print_vxlan_peers(wanted: &[VxlanPeers]) -> String {
        Plan::new(skeleton(), elements(wanted)).to_string()
    }
}
