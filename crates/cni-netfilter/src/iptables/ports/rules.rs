//! The rules for published ports: `PREROUTING` and `OUTPUT` send what is for a local address to `CNI-HOSTPORT-DNAT`, whose
//! rules send an attachment's ports to its chain, whose rules mark what is to be masqueraded and translate the destination.

use std::collections::BTreeSet;

use cni_plugin::Protocol;
use ipnetwork::IpNetwork;

use super::port_range::{PortRange, by_address, long_ranges, singly};
use crate::intent::{MarkChain, PortForwards, Snat};
use crate::iptables::owned::{ChainKind, OwnedChain, Skeleton};
use crate::iptables::tool::{Place, Rule, Table, comment, host, network};

/// `CNI-DN-` and 21 digits: the container's published ports. Until 2018 portmap made one for source NAT, too.
pub(crate) const CHAINS: ChainKind = ChainKind {
    table: "nat",
    prefix: "CNI-DN-",
    digits: 21,
    outdated_prefix: Some("CNI-SN-"),
    go_is_of_container: true,
};

/// The chain with the entry rules of all attachments.
pub(crate) const DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";

/// The multiport match takes 15 ports (`XT_MULTI_PORTS`).
const PORTS_PER_RULE: usize = 15;

/// The rules for one intent.
pub(super) fn wanted(intent: &PortForwards) -> OwnedChain {
    match long_ranges(&intent.ports) {
        Some(ranges) => with_ranges(intent, &ranges, &ranges),
        None => with_ranges(intent, &by_address(&intent.ports), &singly(&intent.ports)),
    }
}

/// The rules as the Go plugin makes them: consecutive ports have one each.
pub(super) fn wanted_singly(intent: &PortForwards) -> OwnedChain {
    let ranges = singly(&intent.ports);
    with_ranges(intent, &ranges, &ranges)
}

/// `translated` is what the owner's chain does, and `listed` what leads there. A port that is asked for twice is in Go's
/// lists twice, and has one rule.
fn with_ranges(intent: &PortForwards, translated: &[PortRange], listed: &[PortRange]) -> OwnedChain {
    let mut known = BTreeSet::new();
    let once: Vec<&PortRange> = translated.iter().filter(|range| known.insert(**range)).collect();
    OwnedChain {
        kind: &CHAINS,
        owner: intent.owner.clone(),
        link: intent.link,
        skeleton: skeleton(intent),
        body: body(intent, &once),
        entries: entries(intent, listed),
        free_form: !intent.conditions.is_empty(),
    }
}

/// The chain of another program that the rules jump to, if they do.
pub(super) fn external_chain(intent: &PortForwards) -> Option<&str> {
    match &intent.mark {
        MarkChain::External(chain) if intent.snat != Snat::Off => Some(chain),
        _ => None,
    }
}

fn skeleton(intent: &PortForwards) -> Skeleton {
    let mut chains = vec![DNAT.to_owned()];
    let mut rules = Vec::new();
    if let (MarkChain::Bit(bit), true) = (&intent.mark, intent.snat != Snat::Off) {
        let mask = 1u32.checked_shl(u32::from(*bit)).unwrap_or_default();
        let mark = format!("{mask:#x}/{mask:#x}");
        let set = ["-j", "MARK", "--set-xmark", &mark];
        chains.extend([SETMARK, MASQ].map(str::to_owned));
        rules.extend([
            (Rule::commented(SETMARK, &[], "CNI portfwd masquerade mark", &set), Place::Last),
            (Rule::new(MASQ, ["-m", "mark", "--mark", &mark, "-j", "MASQUERADE"]), Place::Last),
            // First, for a later rule of the container may accept the packet before it is masqueraded.
            (Rule::commented("POSTROUTING", &[], "CNI portfwd requiring masquerade", &["-j", MASQ]), Place::First),
        ]);
    }
    let local = |hook| Rule::new(hook, ["-m", "addrtype", "--dst-type", "LOCAL", "-j", DNAT]);
    rules.extend(["PREROUTING", "OUTPUT"].map(|hook| (local(hook), Place::Last)));
    Skeleton { chains, rules }
}

/// The comment of a rule for an address that is excluded.
const EXCLUDED: &str = "CNI portfwd excluded address";

/// The addresses that the rules of an attachment's `chain` exclude.
pub(super) fn excluded(table: &Table, chain: &str) -> Vec<IpNetwork> {
    let rules = table.rules(chain).filter(|rule| rule.comment() == Some(EXCLUDED));
    rules.filter_map(|rule| rule.value("-d")?.parse().ok()).collect()
}

/// The rules inside the attachment's chain. If addresses are excluded, ports on one address come before these, and the
/// others behind.
fn body(intent: &PortForwards, ranges: &[&PortRange]) -> Vec<Rule> {
    let excluded = intent.exclude.iter();
    let excluded = excluded.map(|net| Rule::commented("", &["-d", &network(*net)], EXCLUDED, &["-j", "RETURN"]));
    let goes_before = |range: &PortRange| intent.exclude.is_empty() || range.host_ip.is_some();
    let (before, behind): (Vec<&PortRange>, Vec<&PortRange>) = ranges.iter().partition(|range| goes_before(range));
    let of = |ranges: &[&PortRange]| ranges.iter().flat_map(|range| of_range(intent, range)).collect::<Vec<_>>();
    of(&before).into_iter().chain(excluded).chain(of(&behind)).collect()
}

/// The rules for one range of ports inside the attachment's chain.
fn of_range(intent: &PortForwards, range: &PortRange) -> Vec<Rule> {
    let (protocol, host_port) = (range.protocol.name(), range.ports());
    let on = range.host_ip.map(host);
    let rule = |source: Option<&str>, target: &[&str]| {
        let mut args: Vec<&str> = Vec::new();
        args.extend(source.iter().flat_map(|source| ["-s", source]));
        args.extend(on.iter().flat_map(|on| ["-d", on]));
        args.extend(["-p", protocol, "-m", protocol, "--dport", &host_port, "-j"]);
        args.extend(target);
        Rule::new("", args)
    };
    let mark = match &intent.mark {
        MarkChain::Bit(_) => [SETMARK],
        MarkChain::External(chain) => [chain.as_str()],
    };
    let mut rules = match intent.snat {
        Snat::Off => Vec::new(),
        Snat::All => vec![rule(None, &mark)],
        Snat::Local => vec![rule(Some(&network(intent.container)), &mark)],
    };
    if intent.snat == Snat::Local && intent.container.is_ipv4() {
        rules.push(rule(Some("127.0.0.1/32"), &mark));
    }
    rules.push(rule(None, &["DNAT", "--to-destination", &range.destination()]));
    rules
}

/// The entry rules without their target: per protocol by name, as many ports as a multiport match takes at a time.
fn entries(intent: &PortForwards, ranges: &[PortRange]) -> Vec<Rule> {
    let text = comment(&format!("dnat name: \"{}\" id: \"{}\"", intent.owner.network, intent.owner.container_id));
    let mut protocols = Protocol::ALL.map(Protocol::name);
    protocols.sort_unstable();
    let of_protocol = |name: &'static str| {
        let entry = |ports: &String| {
            let known = ["-p", name, "-m", "comment", "--comment", &text, "-m", "multiport", "--dports", ports];
            Rule::new(DNAT, known.into_iter().chain(intent.conditions.iter().map(String::as_str)))
        };
        let lists = lists(ranges.iter().filter(|range| range.protocol.name() == name));
        lists.iter().map(entry).collect::<Vec<_>>()
    };
    protocols.into_iter().flat_map(of_protocol).collect()
}

/// Lists of ports, each for one rule.
fn lists<'a>(ranges: impl Iterator<Item = &'a PortRange>) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    let mut left = 0;
    for range in ranges {
        match lists.last_mut() {
            Some(list) if range.places() <= left => *list = format!("{list},{}", range.ports()),
            _ => {
                lists.push(range.ports());
                left = PORTS_PER_RULE;
            }
        }
        left -= range.places();
    }
    lists
}
