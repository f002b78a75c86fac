//! Published ports: `ip cni_ports` and `ip6 cni_ports`. A connection to a published port costs one or two lookups however
//! many there are, and its source address is translated only if its own mapping says so.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::{Difference, NetworkName, Owner};

use super::apply::{self, Plan};
use super::element::{Element, SetId, Value};
use super::error::NftError;
use super::expr::{self, Ip};
use super::frame::Chain;
use super::masquerade::targets;
use super::portframe::{
    ADDRESS_PORTS, PORTS, SETS, SNAT_ALL, SNAT_LOCAL, SOURCES, frame, local_sources, number, table,
};
use super::{Nftables, check, legacy, localnet, valid_keys};
use crate::{PortForward, PortForwards, Protocol, Snat};

/// A port in a concatenation: padded to a whole register.
fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn protocol_bytes(protocol: Protocol) -> [u8; 4] {
    [number(protocol), 0, 0, 0]
}

/// The key of the element that forwards a port.
fn forward_key(port: &PortForward) -> (SetId, Vec<u8>) {
    let table = table(Ip::of(port.to.ip()));
    let mut key = Vec::with_capacity(24);
    let name = match specified(port) {
        Some(address) => {
            key.extend(expr::octets(address));
            ADDRESS_PORTS
        }
        None => PORTS,
    };
    key.extend(protocol_bytes(port.protocol));
    key.extend(port_bytes(port.host_port));
    (SetId { table, name }, key)
}

/// The key of the element that chooses the translation of the source.
fn source_key(port: &PortForward) -> (SetId, Vec<u8>) {
    let mut key = expr::octets(port.to.ip());
    key.extend(protocol_bytes(port.protocol));
    key.extend(port_bytes(port.to.port()));
    key.extend(port_bytes(port.host_port));
    (SetId { table: table(Ip::of(port.to.ip())), name: SOURCES }, key)
}

/// The host address that a port is published on; `0.0.0.0` and `::` mean every one.
fn specified(port: &PortForward) -> Option<IpAddr> {
    port.host_ip.filter(|address| !address.is_unspecified())
}

fn target(to: SocketAddr) -> Vec<u8> {
    let mut bytes = expr::octets(to.ip());
    bytes.extend(port_bytes(to.port()));
    bytes
}

fn forward_name(port: &PortForward) -> String {
    match specified(port) {
        Some(address) => format!("host port {} {}", SocketAddr::new(address, port.host_port), port.protocol),
        None => format!("host port {} {}", port.host_port, port.protocol),
    }
}

fn plan(intents: &[PortForwards]) -> Result<Plan, NftError> {
    let mut plan = Plan::default();
    let (mut tables, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for intent in intents {
        verify(intent)?;
        if intent.ports.is_empty() {
            continue;
        }
        tables.insert(Ip::of(intent.container.ip()));
        if let Some(chain) = add_elements(intent, &mut plan.elements)
            && subnets.insert(chain.name.clone())
        {
            plan.chains.push((table(Ip::of(intent.container.ip())), chain));
        }
        localnet::add(intent, &mut plan);
    }
    plan.frames.extend(tables.into_iter().map(frame));
    plan.deduplicate()?;
    Ok(plan)
}

/// Refuses what cannot be done: conditions, and a mixture of families.
fn verify(intent: &PortForwards) -> Result<(), NftError> {
    // A condition would need a chain for its owner: `ports` would then map to a verdict, `goto owner-<key>`, whose rules
    // are the conditions with the dnat. Until then it is better to publish nothing than to ignore a condition.
    if let Some(condition) = intent.conditions.first() {
        return Err(NftError::Condition { condition: condition.clone() });
    }
    let family = intent.container.is_ipv4();
    for port in &intent.ports {
        if port.to.is_ipv4() != family || port.host_ip.is_some_and(|address| address.is_ipv4() != family) {
            return Err(NftError::Family { thing: forward_name(port), to: intent.container.to_string() });
        }
    }
    Ok(())
}

/// The elements of an attachment, and the chain that they lead to if that is not part of the frame.
fn add_elements(intent: &PortForwards, elements: &mut Vec<Element>) -> Option<Chain> {
    let comment = intent.owner.comment();
    let (chain, to) = match intent.snat {
        Snat::Off => (None, None),
        Snat::All => (None, Some(SNAT_ALL.to_owned())),
        Snat::Local => {
            let chain = local_sources(intent.container);
            let name = chain.name.clone();
            (Some(chain), Some(name))
        }
    };
    for port in &intent.ports {
        let (set, key) = forward_key(port);
        let name = forward_name(port);
        elements.push(Element { set, key, value: Value::Data(target(port.to)), comment: comment.clone(), name });
    }
    for port in intent.ports.iter().filter(|_| to.is_some()) {
        let (set, key) = source_key(port);
        let name = format!("source translation of {}", forward_name(port));
        let value = to.clone().map_or(Value::Nothing, Value::Goto);
        elements.push(Element { set, key, value, comment: comment.clone(), name });
    }
    chain
}

fn all_sets() -> Vec<SetId> {
    let of = |ip| SETS.map(|name| SetId { table: table(ip), name });
    of(Ip::V4).into_iter().chain(of(Ip::V6)).collect()
}

fn hinted(hints: &[PortForwards]) -> Vec<(SetId, Vec<u8>)> {
    let mut keys = Vec::new();
    for hint in hints {
        keys.extend(hint.ports.iter().map(forward_key));
        if hint.snat != Snat::Off {
            keys.extend(hint.ports.iter().map(source_key));
        }
    }
    keys
}

impl Nftables {
    /// Publishes ports, of any families and owners together in one transaction; repeating it changes nothing.
    ///
    /// Of two mappings of one port, one on an address and one on all, that on the address applies to it.
    ///
    /// # Errors
    /// [`NftError::HeldBy`] if a port belongs to another owner already, [`NftError::Condition`] if there are conditions;
    /// nothing has changed then.
    pub fn add_ports(&self, intents: &[PortForwards]) -> Result<(), NftError> {
        let plan = plan(intents)?;
        if plan.elements.is_empty() { Ok(()) } else { apply::apply(&self.socket, &plan) }
    }

    /// Compares what [`Nftables::add_ports`] makes with what is there: each port, the translation of its sources, and the
    /// shared chains with all their rules.
    ///
    /// # Errors
    /// If the kernel cannot be asked, or the intent is one that [`Nftables::add_ports`] refuses.
    pub fn check_ports(&self, intents: &[PortForwards]) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan(intents)?)
    }

    /// Removes all ports of the owner, also those that the Go portmap made for its container (`ip` and `ip6`
    /// `cni_hostport`). Idempotent.
    ///
    /// With `hints`, what it is thought to have published, this takes constant time; without, or if something of it is not
    /// there or is somebody else's, all elements are read. Nobody else's are ever touched.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<(), NftError> {
        let removed = apply::remove(&self.socket, &all_sets(), &hinted(hints), |comment| owner.wrote(comment))?;
        for ip in [Ip::V4, Ip::V6] {
            delete_unused(self, ip, &targets(&removed, table(ip)))?;
        }
        localnet::sweep(&self.socket, hints)?;
        legacy::remove_ports(&self.socket, owner.container_id.as_str())
    }

    /// Removes the ports of all owners of `network` that are not in `valid`, and what no port uses any more. Idempotent.
    ///
    /// The rules of the Go portmap do not name the network, so they are left to [`Nftables::remove_ports`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        apply::remove_walking(&self.socket, &all_sets(), valid_keys(network, valid))?;
        for ip in [Ip::V4, Ip::V6] {
            delete_unused(self, ip, &apply::chains_with(&self.socket, table(ip), SNAT_LOCAL)?)?;
        }
        localnet::sweep(&self.socket, &[])
    }
}

/// Deletes those of the subnet chains that no port uses. The chain for all sources is part of the frame and stays.
fn delete_unused(nftables: &Nftables, ip: Ip, names: &[String]) -> Result<(), NftError> {
    let own_rules = if ip == Ip::V4 { 2 } else { 1 };
    let names: Vec<_> = names.iter().filter(|name| name.starts_with(SNAT_LOCAL)).cloned().collect();
    apply::delete_unused(&nftables.socket, table(ip), &names, own_rules)
}
