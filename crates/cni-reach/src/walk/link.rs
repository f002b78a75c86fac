//! Between two IP layers: who has the next hop's address, and the links that lead there.

use std::net::IpAddr;
use std::rc::Rc;

use cni_net::{Link, NextHopState, OperState};
use cni_plugin::{Family, MacAddr};

use super::{Arrival, Halt, Walk, Walked, stop};
use crate::answer::Cause;
use crate::packet::Packet;
use crate::world::{Glance, Port};

/// Bytes that a veth and a bridge let pass above the MTU: a VLAN tag (`is_skb_forwardable`).
const TAG: u32 = 4;

/// The IP layers that a link leads to directly.
struct Segment {
    ends: Vec<Port>,
    /// It may lead to more than can be seen.
    is_open: bool,
}

impl Walk<'_> {
    /// Sends the packet by the link to the neighbour `next`.
    pub(super) fn transmit(&mut self, port: &Port, next: IpAddr, mut packet: Packet) -> Walked {
        is_usable(self, port)?;
        packet.src_mac = port.link.mac;
        packet.dst_mac = None;
        match port.link.kind.as_deref() {
            Some("bridge") => {
                packet.dst_mac = self.resolve(port, next)?;
                self.bridge_sends(port, packet)
            }
            Some("veth") => {
                packet.dst_mac = self.resolve(port, next)?;
                self.cross(port, packet)
            }
            Some("macvlan" | "ipvlan" | "macvtap" | "ipvtap") => self.lower(port, next, packet),
            Some("dummy") => stop(
                Cause::DeadEnd,
                format!("{} of {} is a dummy: it drops what is sent by it", port.link.name, port.namespace.name),
                "route the destination by another link",
            ),
            Some("vlan") => {
                let below = self.below(port)?;
                let what = format!("VLAN {} of {below}", port.link.vlan_id.unwrap_or_default());
                Ok(self.left(port, packet, &what))
            }
            _ => {
                let link = port.link.name.clone();
                Ok(self.left(port, packet, &link))
            }
        }
    }

    pub(super) fn left(&mut self, port: &Port, packet: Packet, link: &str) -> Arrival {
        self.step(&port.namespace, &packet, format!("out by {link}"));
        Arrival::Left { namespace: Rc::clone(&port.namespace), link: link.to_owned(), packet }
    }

    fn below(&self, port: &Port) -> Result<String, Halt> {
        Ok(match self.world.peer(port)? {
            Some(below) => format!("{} of {}", below.link.name, below.namespace.name),
            None => "a link that can't be seen".to_owned(),
        })
    }

    /// The MAC address that the frame gets: who has the address, and what the neighbour table says. `None` if that is beyond
    /// what can be seen.
    pub(super) fn resolve(&self, port: &Port, next: IpAddr) -> Result<Option<MacAddr>, Halt> {
        let mut segment = self.segment(port)?;
        if !segment.ends.iter().any(|end| answers(end, next)) && self.world.holder(next)?.is_some() {
            // Its holder is known now, and may be on this link.
            segment = self.segment(port)?;
        }
        let known = port.namespace.netlink.next_hop(port.link.index, next)?;
        let holder = segment.ends.iter().find(|end| answers(end, next));
        let place = format!("{} of {}", port.link.name, port.namespace.name);
        if let Some(known) = known.filter(|known| known.state == NextHopState::Permanent) {
            let others = holder.and_then(|holder| holder.link.mac);
            if others != known.mac && (others.is_some() || !segment.is_open) {
                let real = others.map_or("nobody has that address".to_owned(), |mac| format!("it is {mac}"));
                let set = known.mac.map_or("none".to_owned(), |mac| mac.to_string());
                let reason = format!("the neighbour {next} is set to {set} on {place}, but {real}");
                let advice = format!("ip neigh del {next} dev {} in {}", port.link.name, port.namespace.name);
                return stop(Cause::NeighbourWrong, reason, advice);
            }
            return Ok(known.mac);
        }
        if let Some(holder) = holder {
            is_usable(self, holder)?;
            return Ok(holder.link.mac);
        }
        if segment.is_open {
            return Ok(known.and_then(|known| known.mac));
        }
        let reason = format!("nobody on {place} has the address {next}");
        let advice = if self.world.holder(next)?.is_some() {
            format!("{next} exists behind another link: the route of {} to it is wrong", port.namespace.name)
        } else {
            format!(
                "no visible namespace has {next}: a container that is gone, or a wrong route in {}",
                port.namespace.name
            )
        };
        stop(Cause::NeighbourUnresolved, reason, advice)
    }

    /// The IP layers at the other ends of the link, as far as namespaces were looked into.
    fn segment(&self, port: &Port) -> Result<Segment, Halt> {
        let mut segment = Segment { ends: Vec::new(), is_open: false };
        if port.link.kind.as_deref() == Some("bridge") {
            self.add_ports(port, &mut segment, None)?;
            return Ok(segment);
        }
        match self.world.peer(port)? {
            None => segment.is_open = true,
            Some(peer) => self.add_end(peer, &mut segment)?,
        }
        Ok(segment)
    }

    fn add_end(&self, end: Port, segment: &mut Segment) -> Result<(), Halt> {
        let Some(bridge) = self.bridge_of(&end) else {
            segment.ends.extend(self.children(&end)?);
            segment.ends.push(end);
            return Ok(());
        };
        self.add_ports(&bridge, segment, Some(end.link.index))?;
        segment.ends.push(bridge);
        Ok(())
    }

    fn add_ports(&self, bridge: &Port, segment: &mut Segment, except: Option<u32>) -> Result<(), Halt> {
        let master = Some(bridge.link.index);
        let ports = bridge.namespace.links.iter().filter(|link| link.master == master && Some(link.index) != except);
        for link in ports {
            let port = Port { namespace: Rc::clone(&bridge.namespace), link: link.clone() };
            match self.world.glance(&port) {
                Glance::Known(peer) if link.kind.as_deref() == Some("veth") && self.bridge_of(&peer).is_none() => {
                    segment.ends.extend(self.children(&peer)?);
                    segment.ends.push(*peer);
                }
                // None of its addresses is the one that is looked for, or it would be known.
                Glance::Seen if link.kind.as_deref() == Some("veth") => {}
                _ => segment.is_open = true,
            }
        }
        Ok(())
    }

    /// The bridge that the link is a port of.
    pub(super) fn bridge_of(&self, port: &Port) -> Option<Port> {
        let link = port.namespace.link(port.link.master?)?;
        let is_bridge = link.kind.as_deref() == Some("bridge");
        is_bridge.then(|| Port { namespace: Rc::clone(&port.namespace), link: link.clone() })
    }

    /// macvlans and ipvlans on the link, in any namespace that can be seen.
    pub(super) fn children(&self, below: &Port) -> Result<Vec<Port>, Halt> {
        let mut found = Vec::new();
        for namespace in self.world.known() {
            for link in &namespace.links {
                let is_kind = matches!(link.kind.as_deref(), Some("macvlan" | "ipvlan" | "macvtap" | "ipvtap"));
                if !is_kind || link.peer_index != Some(below.link.index) {
                    continue;
                }
                let child = Port { namespace: Rc::clone(&namespace), link: link.clone() };
                if let Some(parent) = self.world.peer(&child)?
                    && parent.namespace.is(&below.namespace)
                {
                    found.push(child);
                }
            }
        }
        Ok(found)
    }

    /// From a veth's end to the other one.
    pub(super) fn cross(&mut self, port: &Port, packet: Packet) -> Walked {
        let Some(peer) = self.world.peer(port)? else {
            let link = port.link.name.clone();
            return Ok(self.left(port, packet, &link));
        };
        is_usable(self, &peer)?;
        fits(&packet, &peer)?;
        let packet = if peer.namespace.is(&port.namespace) { packet } else { packet.fresh() };
        if let Some(bridge) = self.bridge_of(&peer) {
            return self.bridge_receives(&bridge, &peer, packet);
        }
        if packet.dst_mac == peer.link.mac || packet.dst_mac.is_none() {
            return self.receive(&peer, packet);
        }
        let child = self.children(&peer)?.into_iter().find(|child| child.link.mac == packet.dst_mac);
        match child {
            Some(child) => self.receive(&child, packet),
            None => stop(
                Cause::NeighbourWrong,
                format!(
                    "the frame is for {}, and {} of {} has {}",
                    mac(packet.dst_mac),
                    peer.link.name,
                    peer.namespace.name,
                    mac(peer.link.mac)
                ),
                format!("ip neigh flush dev {} in {}", port.link.name, port.namespace.name),
            ),
        }
    }

    /// A macvlan or ipvlan: to another one on the same link, or out by that link.
    fn lower(&mut self, port: &Port, next: IpAddr, mut packet: Packet) -> Walked {
        let Some(below) = self.world.peer(port)? else {
            let link = port.link.name.clone();
            return Ok(self.left(port, packet, &link));
        };
        is_usable(self, &below)?;
        let siblings = self.children(&below)?;
        if let Some(sibling) = siblings.into_iter().find(|end| end.namespace.has_on(end.link.index, next)) {
            packet.dst_mac = sibling.link.mac;
            is_usable(self, &sibling)?;
            return self.receive(&sibling, packet.fresh());
        }
        if below.namespace.has_on(below.link.index, next) {
            let kind = port.link.kind.clone().unwrap_or_default();
            let reason = format!(
                "{next} is on {} of {} itself, and a {kind} never reaches the link below it",
                below.link.name, below.namespace.name
            );
            return stop(
                Cause::Parent,
                reason,
                "give the node a link of the same kind there (the plugin's key hostInterface or shim), or use another address of the node",
            );
        }
        let packet = packet.fresh();
        if below.link.kind.as_deref() == Some("veth") {
            packet_via(self, &below, next, packet)
        } else {
            let link = below.link.name.clone();
            Ok(self.left(&below, packet, &link))
        }
    }
}

fn packet_via(walk: &mut Walk<'_>, below: &Port, next: IpAddr, mut packet: Packet) -> Walked {
    packet.dst_mac = walk.resolve(below, next)?;
    walk.cross(below, packet)
}

/// Whether an IP layer answers for the address at this link: IPv4 for all of the namespace's addresses (`arp_ignore` 0), IPv6
/// for those of the link; and where it is a proxy.
fn answers(end: &Port, address: IpAddr) -> bool {
    let (namespace, link) = (&end.namespace, &end.link);
    namespace.has_on(link.index, address)
        || (Family::of(address) == Family::V4
            && (namespace.has(address) && !address.is_loopback()
                || namespace.is_on(&format!("ipv4/conf/{}/proxy_arp", link.name))))
}

/// Fails unless the link carries packets.
pub(super) fn is_usable(walk: &Walk<'_>, port: &Port) -> Result<(), Halt> {
    let (link, place) = (&port.link, &port.namespace.name);
    if !link.up {
        let advice = format!("ip link set {} up in {place}", link.name);
        return stop(Cause::LinkDown, format!("{} of {place} is down", link.name), advice);
    }
    // A veth's own state follows the other end's with a delay (net/core/link_watch.c), so that end itself is looked at.
    let veth = link.kind.as_deref() == Some("veth");
    if veth && let Some(peer) = walk.world.peer(port)? {
        let (end, name) = (&peer.link, &peer.namespace.name);
        if end.up {
            return Ok(());
        }
        let reason = format!("{} of {place} has no carrier: its other end, {} of {name}, is down", link.name, end.name);
        return stop(Cause::NoCarrier, reason, format!("ip link set {} up in {name}", end.name));
    }
    if link.bridge.is_some() {
        let has_port = port.namespace.links.iter().any(|other| other.master == Some(link.index) && other.up);
        if has_port {
            return Ok(());
        }
        let reason = format!("the bridge {} of {place} has no port that is up", link.name);
        return stop(Cause::NoCarrier, reason, format!("look at ip link show master {} in {place}", link.name));
    }
    if matches!(link.oper_state, OperState::Down | OperState::LowerLayerDown | OperState::NotPresent) {
        let reason = format!("{} of {place} has no carrier: nothing is plugged in", link.name);
        return stop(Cause::NoCarrier, reason, format!("look at ip link show {} in {place}", link.name));
    }
    Ok(())
}

/// Fails if the packet is dropped for its size without an ICMP error: below the IP layer.
pub(super) fn fits(packet: &Packet, port: &Port) -> Result<(), Halt> {
    if packet.length == u32::MAX || packet.length <= port.link.mtu.saturating_add(TAG) {
        return Ok(());
    }
    let (link, place) = (&port.link, &port.namespace.name);
    let reason = format!(
        "packets above {} bytes are lost: {} of {place} has MTU {}, and the sender uses {}",
        link.mtu, link.name, link.mtu, packet.length
    );
    stop(
        Cause::Mtu,
        reason,
        format!(
            "give all links of the network one MTU (the key mtu), or ip link set {} mtu {}",
            link.name, packet.length
        ),
    )
}

pub(super) fn mac(mac: Option<MacAddr>) -> String {
    mac.map_or_else(|| "no MAC address".to_owned(), |mac| mac.to_string())
}

/// What a link is called in messages.
pub(super) fn label(link: &Link) -> String {
    match crate::world::marked(link) {
        Some(container) => format!("{} (container {container})", link.name),
        None => link.name.clone(),
    }
}
