//! A bridge: from port to port, to the bridge's own IP layer, and through IP rules on the way (`br_input.c`,
//! `br_forward.c`, `br_netfilter_hooks.c`).

use std::net::IpAddr;
use std::rc::Rc;

use cni_net::{Link, RouteQuery, StpState};
use cni_plugin::Family;

use super::link::{fits, is_usable, label, mac};
use super::{Halt, Walk, Walked, stop};
use crate::answer::Cause;
use crate::packet::Packet;
use crate::rules::Hook;
use crate::world::{Glance, Namespace, Port};

impl Walk<'_> {
    /// A frame comes in by a port of the bridge.
    pub(super) fn bridge_receives(&mut self, bridge: &Port, port: &Port, mut packet: Packet) -> Walked {
        self.hop()?;
        let at = &bridge.namespace;
        forwards(at, &port.link)?;
        let vlan = vlan_of(at, bridge, &port.link)?;
        packet.iif = Some(port.link.name.clone());
        packet.oif = None;
        self.pass_bridge(at, Hook::Prerouting, &mut packet)?;
        let calls = calls_ip_rules(at, packet.family());
        if calls {
            let before = packet.dst;
            packet.iif = Some(bridge.link.name.clone());
            self.pass(at, Hook::Prerouting, &mut packet)?;
            // A new destination behind the same bridge: the frame stays on it (br_nf_pre_routing_finish_bridge).
            if packet.dst != before && packet.dst_mac == bridge.link.mac {
                match behind(at, bridge, &packet) {
                    Some(next) => packet.dst_mac = self.resolve(bridge, next)?,
                    None => return self.receive_translated(bridge, packet),
                }
            }
        }
        if packet.dst_mac == bridge.link.mac || packet.dst_mac.is_none() {
            in_vlan(at, &bridge.link, vlan)?;
            packet.iif = Some(port.link.name.clone());
            self.pass_bridge(at, Hook::Input, &mut packet)?;
            packet.iif = Some(bridge.link.name.clone());
            return if calls { self.receive_translated(bridge, packet) } else { self.receive(bridge, packet) };
        }
        let out = self.port_to(bridge, &packet)?;
        let Some(out) = out else {
            let link = bridge.link.name.clone();
            return Ok(self.left(bridge, packet, &link));
        };
        let between = between(at, &port.link, &out.link);
        self.step(at, &packet, format!("bridged {} -> {}", label(&port.link), label(&out.link)));
        between?;
        packet.oif = Some(out.link.name.clone());
        self.pass_bridge(at, Hook::Forward, &mut packet)?;
        if calls {
            (packet.iif, packet.oif) = (Some(bridge.link.name.clone()), Some(bridge.link.name.clone()));
            self.pass(at, Hook::Forward, &mut packet)?;
            self.pass(at, Hook::Postrouting, &mut packet)?;
        }
        self.bridge_out(&out, vlan, packet)
    }

    /// The bridge's own IP layer sends a frame.
    pub(super) fn bridge_sends(&mut self, bridge: &Port, mut packet: Packet) -> Walked {
        let at = &bridge.namespace;
        let vlan = vlan_of(at, bridge, &bridge.link)?;
        let Some(out) = self.port_to(bridge, &packet)? else {
            let link = bridge.link.name.clone();
            return Ok(self.left(bridge, packet, &link));
        };
        (packet.iif, packet.oif) = (None, Some(out.link.name.clone()));
        self.pass_bridge(at, Hook::Output, &mut packet)?;
        self.bridge_out(&out, vlan, packet)
    }

    fn bridge_out(&mut self, out: &Port, vlan: Option<u16>, packet: Packet) -> Walked {
        is_usable(self, out)?;
        forwards(&out.namespace, &out.link)?;
        in_vlan(&out.namespace, &out.link, vlan)?;
        fits(&packet, out)?;
        self.cross(out, packet)
    }

    /// The port that the frame's destination is behind. `None` if that can't be seen.
    fn port_to(&self, bridge: &Port, packet: &Packet) -> Result<Option<Port>, Halt> {
        let at = &bridge.namespace;
        let Some(address) = packet.dst_mac else { return Ok(None) };
        let mut is_open = false;
        for link in at.links.iter().filter(|link| link.master == Some(bridge.link.index)) {
            let port = Port { namespace: Rc::clone(at), link: link.clone() };
            match self.world.glance(&port) {
                Glance::Known(peer) if link.kind.as_deref() == Some("veth") => {
                    let children = self.children(&peer)?;
                    let is_it = |end: &Port| end.link.mac == Some(address);
                    if is_it(&peer) || children.iter().any(is_it) {
                        return Ok(Some(port));
                    }
                }
                Glance::Seen if link.kind.as_deref() == Some("veth") => {}
                _ => is_open = true,
            }
        }
        if is_open {
            return Ok(None);
        }
        let reason = format!("no port of {} leads to {}", bridge.link.name, mac(Some(address)));
        stop(Cause::NeighbourWrong, reason, format!("ip neigh flush {} on the sender", packet.dst.ip()))
    }
}

/// The next hop, if the kernel routes the packet back to the bridge that it came from.
fn behind(at: &Namespace, bridge: &Port, packet: &Packet) -> Option<IpAddr> {
    let route = at.route(&RouteQuery::to(packet.dst.ip())).ok()??;
    (route.device == bridge.link.index).then(|| route.gateway.unwrap_or(packet.dst.ip()))
}

/// Whether bridged packets pass the rules of the IP layer (`br_netfilter`).
fn calls_ip_rules(at: &Namespace, family: Family) -> bool {
    at.is_on(match family {
        Family::V4 => "bridge/bridge-nf-call-iptables",
        Family::V6 => "bridge/bridge-nf-call-ip6tables",
    })
}

/// Fails unless the port's state lets frames pass.
fn forwards(at: &Namespace, port: &Link) -> Result<(), Halt> {
    let Some(state) = port.port.as_ref().map(|port| port.state) else { return Ok(()) };
    if state == StpState::Forwarding {
        return Ok(());
    }
    let reason = format!("the bridge port {} of {} is not forwarding ({state:?})", label(port), at.name);
    stop(Cause::PortState, reason, format!("bridge link set dev {} state 3, or look at the spanning tree", port.name))
}

/// Fails if the bridge doesn't pass frames between these two ports.
fn between(at: &Namespace, from: &Link, to: &Link) -> Result<(), Halt> {
    let settings = |link: &Link| link.port.as_ref().map_or((false, false), |port| (port.hairpin, port.isolated));
    if from.index == to.index && !settings(from).0 {
        let reason = format!(
            "it would leave by the bridge port that it came by, {} of {}, which has no hairpin mode",
            label(from),
            at.name
        );
        return stop(Cause::NoHairpin, reason, "set \"hairpinMode\": true in the bridge's configuration");
    }
    if from.index != to.index && settings(from).1 && settings(to).1 {
        let reason = format!("the bridge ports {} and {} are isolated from each other", label(from), label(to));
        let advice = "the networks have \"portIsolation\": true; take it from one of them, or publish the port";
        return stop(Cause::PortIsolation, reason, advice);
    }
    Ok(())
}

/// The VLAN of untagged frames of the port, on a bridge that filters.
fn vlan_of(at: &Namespace, bridge: &Port, port: &Link) -> Result<Option<u16>, Halt> {
    if !bridge.link.bridge.as_ref().is_some_and(|bridge| bridge.vlan_filtering) {
        return Ok(None);
    }
    match at.netlink.port_vlans(port.index)?.into_iter().find(|vlan| vlan.pvid) {
        Some(vlan) => Ok(Some(vlan.id)),
        None => {
            let reason = format!("{} of {} takes no untagged frames: it has no native VLAN", label(port), at.name);
            stop(
                Cause::Vlan,
                reason,
                format!("bridge vlan add vid ID dev {} pvid untagged; or the key vlan", port.name),
            )
        }
    }
}

fn in_vlan(at: &Namespace, port: &Link, vlan: Option<u16>) -> Result<(), Halt> {
    let Some(vlan) = vlan else { return Ok(()) };
    let vlans = at.netlink.port_vlans(port.index)?;
    if vlans.iter().any(|known| known.id == vlan) {
        return Ok(());
    }
    let ids: Vec<String> = vlans.iter().map(|vlan| vlan.id.to_string()).collect();
    let has = if ids.is_empty() { "no VLAN".to_owned() } else { format!("VLAN {}", ids.join(", ")) };
    let reason = format!("the frame is in VLAN {vlan}, and {} of {} is in {has}", label(port), at.name);
    stop(Cause::Vlan, reason, "give both containers' networks the same vlan, or route between the VLANs")
}
