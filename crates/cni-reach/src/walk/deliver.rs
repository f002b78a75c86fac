//! The end of the way: a program's socket, a rule's drop, and whether the answer finds back.

use std::net::{IpAddr, SocketAddr};

use super::{Halt, Stop, Walk, stop};
use crate::answer::Cause;
use crate::packet::Packet;
use crate::question::Origin;
use crate::rules::{Culprit, Hook, Published};
use crate::world::{Namespace, sockets};

/// A rule's drop in words.
pub(super) fn dropped(at: &Namespace, hook: Hook, packet: &Packet, culprit: &Culprit) -> Stop {
    let Culprit { table, chain, .. } = culprit;
    let rule = rule_text(at, culprit);
    let where_ = format!("{table}, chain {chain} ({} of {})", hook.name(), at.name);
    let shown = format!("see it with: {}", culprit.shown_by);
    let stop = |cause, reason, advice: String| Stop { cause, reason, advice };
    match (table.as_str(), chain.as_str()) {
        ("bridge cni_macspoof", _) | ("bridge nat", _) if hook == Hook::Prerouting => {
            let mac = packet.src_mac.map(|mac| mac.to_string()).unwrap_or_default();
            let reason = format!("macspoofchk drops it: {mac} is not the MAC address that the container was given");
            stop(
                Cause::MacSpoof,
                reason,
                format!("set the interface's MAC address back, or attach it with it; {shown}"),
            )
        }
        ("ip cni_localnet", _) => {
            let reason = format!("the guard of 127.0.0.0/8 drops {packet}: it didn't come from lo");
            stop(Cause::Guard, reason, format!("meant so: only the node itself reaches 127.0.0.1; {shown}"))
        }
        ("inet cni_firewall", _) => {
            let reason = format!("ingressPolicy drops {packet} between the networks' bridges: {where_}");
            stop(
                Cause::IngressPolicy,
                reason,
                format!("meant so by the key ingressPolicy of the plugin firewall; {shown}"),
            )
        }
        (_, chain) if chain.starts_with("CNI-ISOLATION") => {
            let reason = format!("ingressPolicy drops {packet} between the networks' bridges: {where_}");
            stop(
                Cause::IngressPolicy,
                reason,
                format!("meant so by the key ingressPolicy of the plugin firewall; {shown}"),
            )
        }
        _ => {
            let reason = format!("a rule drops {packet}: {where_}: {rule}");
            let accept = match hook {
                Hook::Forward => {
                    "; the plugin firewall in the network's chain accepts containers' packets in iptables' FORWARD, in other tables the accept is yours to add"
                }
                _ => "",
            };
            stop(Cause::Rule, reason, format!("{shown}{accept}"))
        }
    }
}

/// The rule as `nft` prints it; its JSON has no text.
pub(super) fn rule_text(at: &Namespace, culprit: &Culprit) -> String {
    let Some(handle) = culprit.rule.strip_prefix("handle ") else { return culprit.rule.clone() };
    let words: Vec<&str> = culprit.shown_by.split(' ').collect();
    let text = crate::world::command::output(&at.netns, &words).unwrap_or_default();
    let end = format!("# handle {handle}");
    let line = text.lines().find_map(|line| line.trim().strip_suffix(&end));
    line.map_or_else(|| culprit.rule.clone(), |line| line.trim().to_owned())
}

/// A program takes the packet: which, in words.
pub(super) fn to_socket(walk: &mut Walk<'_>, at: &Namespace, packet: &Packet) -> Result<String, Halt> {
    let Some(protocol) = packet.protocol else { return Ok(format!("{} answers", at.name)) };
    if protocol == cni_plugin::Protocol::Sctp {
        walk.note(None, "SCTP's sockets are not looked at".to_owned());
        return Ok(format!("it reaches {}", at.name));
    }
    let listening = sockets::listening(&at.netns, protocol);
    if let Some(socket) = listening.iter().find(|socket| sockets::accepts(**socket, packet.dst)) {
        return Ok(format!("a program of {} listens on {socket}", at.name));
    }
    let port = packet.dst.port();
    let published = at.rules().published(port);
    // Nothing has translated it, so the port itself was meant.
    let was_translated = packet.ct.as_ref().is_some_and(|ct| ct.dnat) || !at.is(&walk.world.node);
    let here: Vec<IpAddr> = listening.iter().filter(|socket| socket.port() == port).map(SocketAddr::ip).collect();
    if let Some(address) = here.first() {
        let reason =
            format!("a program of {} listens on port {port} of {address} only, not of {}", at.name, packet.dst.ip());
        return stop(Cause::ListensElsewhere, reason, "let it listen on 0.0.0.0 or ::");
    }
    if was_translated || packet.src.ip() == packet.dst.ip() && published.is_empty() && packet.dst.ip().is_loopback() {
        return nobody_listens(at, packet);
    }
    not_published(at, packet, &published)
}

fn nobody_listens<T>(at: &Namespace, packet: &Packet) -> Result<T, Halt> {
    let protocol = packet.protocol_name();
    let reason = format!("no program of {} listens on {protocol} port {}", at.name, packet.dst.port());
    stop(
        Cause::NobodyListens,
        reason,
        format!("start it, or correct the container port; ss -ln in {} shows what listens", at.name),
    )
}

/// A port of the node on which nothing listens and that no rule translated.
fn not_published<T>(at: &Namespace, packet: &Packet, published: &[Published]) -> Result<T, Halt> {
    let (protocol, to) = (packet.protocol_name(), packet.dst);
    let same = |known: &&Published| known.protocol == protocol || known.protocol == "any";
    if let Some(address) = published.iter().filter(same).find_map(|known| known.address.filter(|one| *one != to.ip())) {
        let reason = format!("port {} is published on {address} only (hostIP), not on {}", to.port(), to.ip());
        return stop(Cause::PublishedOnAnotherAddress, reason, format!("use {address}, or publish it without hostIP"));
    }
    if let Some(other) = published.iter().find(|known| !same(known)) {
        let reason = format!("port {} is published for {}, not for {protocol}", to.port(), other.protocol);
        return stop(Cause::PublishedForAnotherProtocol, reason, format!("publish it for {protocol} too"));
    }
    if published.iter().any(|known| same(&known)) {
        let reason = format!("port {} is published, but not for {packet}: excluded, or by a condition", to.port());
        return stop(Cause::NotPublished, reason, "look at conditionsV4/V6, excludeHostIPs and snat of portmap");
    }
    let reason =
        format!("{protocol} port {} of {} is not published, and no program of it listens on it", to.port(), at.name);
    stop(
        Cause::NotPublished,
        reason,
        "publish it (portMappings; nerdctl, podman: -p), and see that portmap is in the network's chain",
    )
}

/// The answer can't come back: why, seen from the first packet.
pub(super) fn no_way_back(walk: &Walk<'_>, target: &Namespace, first: &Packet, stopped: Stop) -> Stop {
    let translated = first.ct.as_ref().is_some_and(|ct| ct.snat);
    let is_far = !target.is(&walk.world.node);
    if matches!(stopped.cause, Cause::NoRoute | Cause::NeighbourUnresolved) && is_far && !translated {
        let source = first.src.ip();
        let reason = format!("it arrives, but {} has no way back to {source}: {}", target.name, stopped.reason);
        let advice = format!(
            "masquerade what leaves the node (ipMasq of bridge and ptp), or give {} a route to {source} by the node",
            target.name
        );
        return Stop { cause: Cause::NoWayBack, reason, advice };
    }
    Stop { reason: format!("it arrives, but the answer is lost: {}", stopped.reason), ..stopped }
}

/// The answer must come to the place that asked, from the address that was asked.
pub(super) fn check_answer(back: &Namespace, from: &Origin, answer: &Packet, asked: SocketAddr) -> Result<(), Halt> {
    let Origin::Program(from) = from else { return Ok(()) };
    if !back.is(from) {
        let reason = format!("the answer to {} goes to {}, which has that address too", from.name, back.name);
        return stop(Cause::WrongSource, reason, "give each of them an address of its own");
    }
    if answer.src != asked {
        let reason = format!("the answer comes from {}, but {asked} was asked: {} refuses it", answer.src, from.name);
        let advice = "the answer doesn't pass the node: let portmap translate the source (\"snat\": true), or bridged packets pass the rules (br_netfilter)";
        return stop(Cause::WrongSource, reason, advice);
    }
    Ok(())
}

/// A packet that leaves with a source that hosts outside may not know.
pub(super) fn note_private_source(walk: &mut Walk<'_>, at: &Namespace, packet: &Packet) {
    if at.has(packet.src.ip()) {
        return;
    }
    let source = packet.src.ip();
    let text = format!(
        "it is not masqueraded: the answer comes back only if hosts outside have a route to {source} by {}; else set ipMasq",
        at.name
    );
    walk.note(Some(Cause::NoWayBack), text);
}
