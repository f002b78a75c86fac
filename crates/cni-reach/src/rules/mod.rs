//! Packet rules of one namespace: nf_tables, iptables-nft and legacy iptables, in the order in which the kernel asks them.
//!
//! What a rule does to a packet is evaluated for that packet alone. A match that isn't understood makes the rule count as not
//! matching, and is reported ([`Passage::unsure`]): it is never guessed.

mod iptables;
mod nft;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cni_net::NetNs;
use cni_plugin::Family;

use crate::packet::{Connection, Packet, Tracked};
use crate::world::command;

/// Connection tracking's own place (`NF_IP_PRI_CONNTRACK`), and those where addresses are translated.
const CONNTRACK: i64 = -200;

/// A hook of the IP layer, or of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    fn translates_source(self) -> bool {
        matches!(self, Self::Postrouting | Self::Input)
    }
}

/// What rules ask about the namespace.
pub(crate) trait Surroundings {
    /// Whether the address is this namespace's own.
    fn is_local(&self, address: IpAddr) -> bool;
    /// The address that `masquerade` gives a packet that leaves by `link` for `to`.
    fn masquerade_address(&self, link: &str, to: IpAddr) -> Option<IpAddr>;
}

/// A base chain, and where its rules are.
#[derive(Debug, Clone)]
struct BaseChain {
    hook: Hook,
    priority: i64,
    is_nat: bool,
    is_bridge: bool,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Nft(nft::ChainId),
    /// Index of the table, and the chain.
    Xtables(usize, String),
}

/// All rules of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    nft: nft::Ruleset,
    xtables: Vec<iptables::Table>,
    base: Vec<BaseChain>,
    /// What could not be read, and why.
    pub(crate) unread: Vec<String>,
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Culprit {
    /// Its table, as its tool names it: `inet cni_firewall`, `iptables filter`.
    pub(crate) table: String,
    pub(crate) chain: String,
    /// The rule as its tool prints it, or `policy drop`.
    pub(crate) rule: String,
    /// A command that shows it.
    pub(crate) shown_by: String,
}

/// How a packet came through a hook.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    pub(crate) dropped: Option<Culprit>,
    /// What translated it.
    pub(crate) translated: Vec<Translation>,
    /// Rules that could not be evaluated and might have decided otherwise.
    pub(crate) unsure: Vec<Culprit>,
}

/// A change of an address by a rule or by connection tracking.
#[derive(Debug, Clone)]
pub(crate) struct Translation {
    pub(crate) of_source: bool,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// `None`: connection tracking took back what a rule had done to the first packet.
    pub(crate) by: Option<Culprit>,
}

/// What a chain says in the end.
enum Verdict {
    Accept,
    Drop(Culprit),
    /// The chain's end.
    Continue,
    /// A new destination, or a new source.
    Nat(SocketAddr, Culprit),
}

/// What evaluation knows and finds out.
struct Evaluation<'a> {
    packet: &'a mut Packet,
    hook: Hook,
    around: &'a dyn Surroundings,
    unsure: Vec<Culprit>,
}

impl Evaluation<'_> {
    fn not_understood(&mut self, rule: Culprit) {
        self.unsure.push(rule);
    }

    /// What `masquerade` makes the source.
    fn masqueraded(&self) -> Option<SocketAddr> {
        let oif = self.packet.oif.as_deref()?;
        let address = self.around.masquerade_address(oif, self.packet.dst.ip())?;
        Some(SocketAddr::new(address, self.packet.src.port()))
    }

    /// What `redirect` makes the destination: this namespace, by the link that the packet came by.
    fn redirected(&self, port: Option<u16>) -> Option<SocketAddr> {
        let address = match (self.hook, self.packet.dst.ip()) {
            (Hook::Output, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Hook::Output, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            _ => self.around.masquerade_address(self.packet.iif.as_deref()?, self.packet.src.ip())?,
        };
        Some(SocketAddr::new(address, port.unwrap_or(self.packet.dst.port())))
    }
}

impl Rules {
    /// Reads the rules of `namespace` with the tools `nft` and `iptables-save`. What can't be read is named in `unread`.
    pub(crate) fn read(namespace: &NetNs) -> Self {
        let mut rules = Self::default();
        match command::output(namespace, &["nft", "-j", "list", "ruleset"]) {
            Ok(text) => match nft::Ruleset::parse(&text) {
                Ok(ruleset) => rules.nft = ruleset,
                Err(why) => rules.unread.push(format!("the rules of nf_tables: {why}")),
            },
            Err(why) => rules.unread.push(format!("the rules of nf_tables: {why}")),
        }
        for family in Family::ALL {
            rules.read_xtables(namespace, family);
        }
        rules.collect_base_chains();
        rules
    }

    fn read_xtables(&mut self, namespace: &NetNs, family: Family) {
        let six = if family == Family::V6 { "6" } else { "" };
        // Only if there are tables: the tools would load modules.
        if self.nft.has_iptables_tables(family) {
            let tool = format!("ip{six}tables-nft-save");
            match command::output(namespace, &[&tool]) {
                // One rule that iptables can't express, and the tools show nothing of the table.
                Ok(text) => self.xtables.extend(iptables::parse(&text, family, false)),
                Err(why) => self.unread.push(format!("what {tool} shows: {why}")),
            }
        }
        if command::read(namespace, &format!("/proc/thread-self/net/ip{six}_tables_names")).is_ok_and(|t| !t.is_empty())
        {
            let tool = format!("ip{six}tables-legacy-save");
            match command::output(namespace, &[&tool]) {
                Ok(text) => self.xtables.extend(iptables::parse(&text, family, true)),
                Err(why) => self.unread.push(format!("what {tool} shows: {why}")),
            }
        }
    }

    fn collect_base_chains(&mut self) {
        let shown: Vec<_> = self.xtables.iter().filter(|t| !t.is_legacy).map(|t| (t.family, t.name.clone())).collect();
        self.base = self.nft.base_chains(&shown);
        for (index, table) in self.xtables.iter().enumerate() {
            self.base.extend(table.base_chains().map(|(hook, priority, chain)| BaseChain {
                hook,
                priority,
                is_nat: table.name == "nat",
                is_bridge: false,
                place: Place::Xtables(index, chain),
            }));
        }
        self.base.sort_by_key(|chain| chain.priority);
    }

    /// The packet passes `hook`. `connections` are those that the namespace's connection tracking has seen.
    pub(crate) fn pass(
        &self,
        hook: Hook,
        packet: &mut Packet,
        connections: &mut Vec<Connection>,
        around: &dyn Surroundings,
    ) -> Passage {
        let mut passage = Passage::default();
        let tracks = matches!(hook, Hook::Prerouting | Hook::Output);
        let mut is_translated = false;
        for chain in self.base.iter().filter(|chain| chain.hook == hook && !chain.is_bridge) {
            if tracks && chain.priority > CONNTRACK {
                track(packet, connections);
            }
            let answers = packet.ct.as_ref().is_some_and(|ct| ct.answers.is_some());
            if chain.is_nat && (answers || is_translated) {
                continue;
            }
            match self.evaluate(chain, hook, packet, around, &mut passage.unsure) {
                Verdict::Drop(culprit) => {
                    passage.dropped = Some(culprit);
                    return passage;
                }
                Verdict::Nat(to, culprit) => {
                    is_translated = true;
                    passage.translated.extend(translate(packet, hook.translates_source(), to, Some(culprit)));
                }
                Verdict::Accept | Verdict::Continue => {}
            }
        }
        if tracks {
            track(packet, connections);
        }
        passage.translated.extend(take_back(hook, packet, connections));
        if hook.translates_source() {
            confirm(packet, connections);
        }
        passage
    }

    /// The frame passes `hook` of the bridge layer.
    pub(crate) fn pass_bridge(&self, hook: Hook, packet: &mut Packet, around: &dyn Surroundings) -> Passage {
        let mut passage = Passage::default();
        for chain in self.base.iter().filter(|chain| chain.hook == hook && chain.is_bridge) {
            if let Verdict::Drop(culprit) = self.evaluate(chain, hook, packet, around, &mut passage.unsure) {
                passage.dropped = Some(culprit);
                return passage;
            }
        }
        passage
    }

    fn evaluate(
        &self,
        chain: &BaseChain,
        hook: Hook,
        packet: &mut Packet,
        around: &dyn Surroundings,
        unsure: &mut Vec<Culprit>,
    ) -> Verdict {
        let mut evaluation = Evaluation { packet, hook, around, unsure: Vec::new() };
        let verdict = match &chain.place {
            Place::Nft(id) => self.nft.evaluate(id, &mut evaluation),
            Place::Xtables(index, name) => match self.xtables.get(*index) {
                Some(table) => table.evaluate(name, &mut evaluation),
                None => Verdict::Continue,
            },
        };
        unsure.extend(evaluation.unsure);
        verdict
    }

    /// Rules and elements that publish `port` in any way: where they say so, for an answer.
    pub(crate) fn published(&self, port: u16) -> Vec<Published> {
        let mut found = self.nft.published(port);
        found.extend(self.xtables.iter().flat_map(|table| table.published(port)));
        found
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// `None`: on all addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: String,
    pub(crate) to: Option<SocketAddr>,
}

/// The packet gets a connection: a known one that it answers, or its own.
fn track(packet: &mut Packet, connections: &[Connection]) {
    if packet.ct.is_some() {
        return;
    }
    let tuple = (packet.src, packet.dst);
    let answers = connections.iter().position(|connection| connection.reply == tuple);
    let known = answers.and_then(|index| connections.get(index));
    packet.ct = Some(match known {
        Some(connection) => Tracked {
            original: connection.original,
            answers,
            dnat: connection.original.1 != connection.reply.0,
            snat: connection.original.0 != connection.reply.1,
            mark: connection.mark,
        },
        None => Tracked { original: tuple, answers: None, dnat: false, snat: false, mark: 0 },
    });
}

fn translate(packet: &mut Packet, of_source: bool, to: SocketAddr, by: Option<Culprit>) -> Option<Translation> {
    let part = if of_source { &mut packet.src } else { &mut packet.dst };
    let from = *part;
    if from == to {
        return None;
    }
    *part = to;
    if let Some(ct) = packet.ct.as_mut().filter(|_| by.is_some()) {
        if of_source { ct.snat = true } else { ct.dnat = true }
    }
    Some(Translation { of_source, from, to, by })
}

/// An answer gets the addresses that the first packet had.
fn take_back(hook: Hook, packet: &mut Packet, connections: &[Connection]) -> Option<Translation> {
    let index = packet.ct.as_ref()?.answers?;
    let connection = connections.get(index)?;
    let (client, server) = connection.original;
    match hook {
        Hook::Prerouting | Hook::Output => translate(packet, false, client, None),
        Hook::Postrouting | Hook::Input => translate(packet, true, server, None),
        Hook::Forward => None,
    }
}

/// The connection is remembered when its first packet leaves the namespace or reaches a program.
fn confirm(packet: &Packet, connections: &mut Vec<Connection>) {
    let Some(ct) = packet.ct.as_ref().filter(|ct| ct.answers.is_none()) else { return };
    let connection = Connection { original: ct.original, reply: (packet.dst, packet.src), mark: ct.mark };
    if !connections.contains(&connection) {
        connections.push(connection);
    }
}
