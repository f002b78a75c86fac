//! A namespace's IP layer: routes, hooks, forwarding (`ip_output.c`, `ip_input.c`, `ip_forward.c`).

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use cni_net::{Link, RouteKind, RouteLookup, RouteQuery};
use cni_plugin::Family;

use super::{Arrival, Halt, Walk, Walked, stop};
use crate::answer::Cause;
use crate::packet::Packet;
use crate::question::missing;
use crate::rules::{Hook, Surroundings};
use crate::world::{Namespace, Port};

impl Walk<'_> {
    /// A program of the namespace sends the packet.
    pub(super) fn send(&mut self, at: &Rc<Namespace>, mut packet: Packet) -> Walked {
        self.hop()?;
        let mut route = self.output_route(at, &packet)?;
        if packet.src.ip().is_unspecified() {
            let source = route.source.or_else(|| at.address(packet.family()));
            match source {
                Some(source) => packet.src.set_ip(source),
                None => return nothing_to_send_from(at, packet.family()),
            }
        }
        let mut link = self.device(at, &route)?;
        packet.oif = Some(link.name.clone());
        let before = (packet.dst, packet.mark);
        self.step(at, &packet, out(&packet, &link, &route));
        self.pass(at, Hook::Output, &mut packet)?;
        if (packet.dst, packet.mark) != before {
            // ip_route_me_harder(): the way is looked up again, with the source that the packet has by now.
            route = self.output_route(at, &packet)?;
            link = self.device(at, &route)?;
            packet.oif = Some(link.name.clone());
            self.step(at, &packet, out(&packet, &link, &route));
        }
        let mtu = at.route_mtu(packet.dst.ip(), link.index).map_or(link.mtu, |mtu| mtu.min(link.mtu));
        packet.length = packet.length.min(mtu);
        self.leave(at, &link, &route, packet)
    }

    /// The packet has a route and passes postrouting.
    fn leave(&mut self, at: &Rc<Namespace>, link: &Link, route: &RouteLookup, mut packet: Packet) -> Walked {
        if !link.loopback && packet.src.ip().is_loopback() {
            leaves_loopback(at, link, &packet)?;
        }
        self.pass(at, Hook::Postrouting, &mut packet)?;
        if link.loopback || matches!(route.kind, RouteKind::Local) {
            packet.iif = Some(link.name.clone());
            packet.oif = None;
            // It comes in again by lo, as the same packet: connection tracking knows it.
            return self.input(at, packet);
        }
        let next = route.gateway.unwrap_or(packet.dst.ip());
        let port = Port { namespace: Rc::clone(at), link: link.clone() };
        self.transmit(&port, next, packet)
    }

    /// The packet reaches the IP layer by a link.
    pub(super) fn receive(&mut self, port: &Port, mut packet: Packet) -> Walked {
        self.hop()?;
        packet.iif = Some(port.link.name.clone());
        packet.oif = None;
        self.pass(&port.namespace, Hook::Prerouting, &mut packet)?;
        self.receive_translated(port, packet)
    }

    /// What follows prerouting.
    pub(super) fn receive_translated(&mut self, port: &Port, packet: Packet) -> Walked {
        let (at, link) = (&port.namespace, &port.link);
        if packet.family() == Family::V6 && at.is_on(&format!("ipv6/conf/{}/disable_ipv6", link.name)) {
            let advice = format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=0 in {}", link.name, at.name);
            return stop(Cause::Ipv6Disabled, format!("{} of {} has no IPv6", link.name, at.name), advice);
        }
        arrives_from_loopback(at, link, &packet)?;
        check_source(at, link, &packet)?;
        let local = at.is_local(packet.dst.ip());
        if local {
            return self.input(at, packet);
        }
        self.forward(port, packet)
    }

    /// For programs of the namespace.
    fn input(&mut self, at: &Rc<Namespace>, mut packet: Packet) -> Walked {
        self.pass(at, Hook::Input, &mut packet)?;
        self.step(at, &packet, "delivered");
        Ok(Arrival::Delivered(Rc::clone(at), packet))
    }

    fn forward(&mut self, port: &Port, mut packet: Packet) -> Walked {
        let (at, link) = (&port.namespace, &port.link);
        may_forward(at, link, &packet)?;
        let query = RouteQuery {
            from: Some(packet.src.ip()),
            arrived_by: Some(link.index),
            mark: packet.mark,
            ..RouteQuery::to(packet.dst.ip())
        };
        let route = match at.route(&query) {
            Ok(Some(route)) => route,
            Ok(None) => return no_route(at, &packet),
            Err(errno) => return refused(at, &packet, errno),
        };
        let out_link = self.device(at, &route)?;
        packet.oif = Some(out_link.name.clone());
        self.step(at, &packet, out(&packet, &out_link, &route));
        self.pass(at, Hook::Forward, &mut packet)?;
        if packet.length > out_link.mtu {
            // The sender gets an ICMP error, and sends smaller ones.
            let text = format!(
                "{} tells the sender that packets above {} bytes don't fit {}; where ICMP is filtered, large transfers hang",
                at.name, out_link.mtu, out_link.name
            );
            self.note(None, text);
            packet.length = out_link.mtu;
        }
        self.leave(at, &out_link, &route, packet)
    }

    fn output_route(&mut self, at: &Namespace, packet: &Packet) -> Result<RouteLookup, Halt> {
        let source = Some(packet.src.ip()).filter(|source| !source.is_unspecified() && at.has(*source));
        // Policy rules by source don't apply to a program that has chosen none.
        let query = RouteQuery { from: source, mark: packet.mark, ..RouteQuery::to(packet.dst.ip()) };
        let found = at.route(&query);
        // A link without its subnet's route, or that is down, explains more than a missing route.
        match found {
            Ok(Some(route)) => Ok(route),
            Ok(None) => no_route(at, packet),
            // The kernel looks up no route from a loopback address to another link without route_localnet.
            Err(_) if packet.src.ip().is_loopback() => {
                let link = match at.route(&RouteQuery { from: None, ..query }) {
                    Ok(Some(route)) => self.device(at, &route)?,
                    _ => return no_route(at, packet),
                };
                leaves_loopback(at, &link, packet)?;
                no_route(at, packet)
            }
            Err(errno) => refused(at, packet, errno),
        }
    }

    fn device(&self, at: &Namespace, route: &RouteLookup) -> Result<Link, Halt> {
        match at.link(route.device) {
            Some(link) => Ok(link.clone()),
            None => stop(Cause::NoLink, format!("a link of {} has just gone", at.name), "ask again"),
        }
    }
}

fn out(packet: &Packet, link: &Link, route: &RouteLookup) -> String {
    match route.gateway {
        _ if route.kind == RouteKind::Local => format!("{packet} is its own address"),
        Some(gateway) => format!("{packet} by {} via {gateway}", link.name),
        None => format!("{packet} by {}", link.name),
    }
}

fn nothing_to_send_from<T>(at: &Namespace, family: Family) -> Result<T, Halt> {
    let (cause, reason, advice) = missing(at, family);
    stop(cause, reason, advice)
}

fn no_route<T>(at: &Namespace, packet: &Packet) -> Result<T, Halt> {
    let family = packet.family();
    if at.address(family).is_none() || at.real_links().all(|link| !link.up) {
        return nothing_to_send_from(at, family);
    }
    if let Some(link) = at.real_links().find(|link| !link.up && at.address_on(link.index, family).is_some()) {
        let reason =
            format!("{} of {} is down, and {} has no route to {}", link.name, at.name, at.name, packet.dst.ip());
        return stop(
            Cause::LinkDown,
            reason,
            format!("ip link set {} up in {}, and its routes again", link.name, at.name),
        );
    }
    let reason = format!("{} has no route to {}", at.name, packet.dst.ip());
    let default = if at.default_route(family).is_none() { "; it has no default route either" } else { "" };
    let advice =
        format!("add the route there, for containers in the network's ipam.routes or isDefaultGateway{default}");
    stop(Cause::NoRoute, reason, advice)
}

fn refused<T>(at: &Namespace, packet: &Packet, errno: i32) -> Result<T, Halt> {
    let reason = format!(
        "the kernel of {} refuses to route {packet} (error {errno}): a blackhole or prohibit route, or a policy rule",
        at.name
    );
    let advice = format!("ip route get {} in {}, ip rule, ip route show table all", packet.dst.ip(), at.name);
    stop(Cause::NoRoute, reason, advice)
}

fn may_forward(at: &Namespace, link: &Link, packet: &Packet) -> Result<(), Halt> {
    let key = match packet.family() {
        Family::V4 => format!("ipv4/conf/{}/forwarding", link.name),
        Family::V6 => "ipv6/conf/all/forwarding".to_owned(),
    };
    if at.is_on(&key) {
        return Ok(());
    }
    let setting = match packet.family() {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    };
    let reason = format!(
        "{} is no router: {packet} arrived by {} for another host, and net.{} is 0",
        at.name,
        link.name,
        key.replace('/', ".")
    );
    stop(Cause::ForwardingOff, reason, format!("sysctl -w {setting}=1"))
}

/// IPv4's `fib_validate_source`: what a source can't be, and reverse path filtering (`Documentation/networking/ip-sysctl`).
fn check_source(at: &Namespace, link: &Link, packet: &Packet) -> Result<(), Halt> {
    if packet.family() == Family::V6 {
        return Ok(());
    }
    let source = packet.src.ip();
    if at.has(source) && !at.is_on(&format!("ipv4/conf/{}/accept_local", link.name)) {
        let reason = format!("{packet} comes back to {}, whose own address {source} is", at.name);
        return stop(
            Cause::OwnAddress,
            format!("{reason}: the kernel takes the source for forged"),
            "let the node translate the source of a container that reaches itself (portmap: \"snat\": true)",
        );
    }
    let value = |of: &str| at.sysctl(&format!("ipv4/conf/{of}/rp_filter")).and_then(|text| text.parse::<u8>().ok());
    let mode = value("all").max(value(&link.name)).unwrap_or(0);
    if mode == 0 {
        return Ok(());
    }
    let back = at.route(&RouteQuery::to(source)).ok().flatten();
    let device = back.as_ref().map(|route| route.device);
    // A loose filter (2) wants any route back, a strict one (1) one by the same link.
    if device.is_none() || (mode == 1 && device != Some(link.index)) {
        let other = device.and_then(|device| at.link(device)).map_or("no link", |link| &link.name);
        let reason = format!(
            "{packet} arrived at {} by {}, but the route back to {source} is by {other}: rp_filter={mode} drops it",
            at.name, link.name
        );
        let advice = format!(
            "add a route to {source} by {} in {}, or sysctl -w net.ipv4.conf.{}.rp_filter=2 (and conf.all below 2)",
            link.name, at.name, link.name
        );
        return stop(Cause::RpFilter, reason, advice);
    }
    Ok(())
}

/// Packets of 127.0.0.0/8 and ::1 that come from a link.
fn arrives_from_loopback(at: &Namespace, link: &Link, packet: &Packet) -> Result<(), Halt> {
    let is_any = [packet.src, packet.dst].iter().any(|end| end.ip().is_loopback());
    if !is_any || (packet.dst.is_ipv4() && at.is_on(&format!("ipv4/conf/{}/route_localnet", link.name))) {
        return Ok(());
    }
    let reason = format!("{packet} arrived at {} by {}: loopback addresses are taken from lo only", at.name, link.name);
    stop(
        Cause::Loopback,
        reason,
        "use another address of that host; only its own programs reach its loopback addresses",
    )
}

/// A translated packet from 127.0.0.1 leaves by another link than `lo` with route_localnet only (`ip_route_output_key`).
fn leaves_loopback(at: &Namespace, link: &Link, packet: &Packet) -> Result<(), Halt> {
    if packet.dst.is_ipv4() && at.is_on(&format!("ipv4/conf/{}/route_localnet", link.name)) {
        return Ok(());
    }
    let advice = match packet.dst.ip() {
        IpAddr::V4(_) => format!(
            "portmap with snat switches net.ipv4.conf.{}.route_localnet on when it adds the guard of 127.0.0.0/8: call ADD \
             again for the container; or use another address of the node",
            link.name
        ),
        IpAddr::V6(_) => "use another address of the node: IPv6 has no route_localnet".to_owned(),
    };
    let reason = format!(
        "{packet} can't leave {} by {}: its source is a loopback address and route_localnet is 0",
        at.name, link.name
    );
    stop(Cause::Loopback, reason, advice)
}

/// The question's packet in words; without a source as long as none is chosen.
impl crate::question::Question {
    pub(super) fn describe(&self, packet: &Packet) -> String {
        let to = |end: SocketAddr| if packet.protocol.is_some() { end.to_string() } else { end.ip().to_string() };
        let protocol = packet.protocol.map_or("ping", cni_plugin::Protocol::name);
        format!("{protocol} {} -> {}", self.from, to(packet.dst))
    }
}
