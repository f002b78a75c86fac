//! Published ports: `PREROUTING` and `OUTPUT` send what is for a local address to `CNI-HOSTPORT-DNAT`, whose rules send
//! an attachment's ports to its chain, whose rules mark what is to be masqueraded and translate the destination.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::masquerade::network;
use super::names::Kind;
use super::plan::{Frame, Place, Wanted};
use super::rules::{Rule, comment};
use super::run::{Run, by_address, rows, singly};
use super::tool::Family;
use crate::{MarkChain, PortForwards, Snat};

/// The chain with the entry rules of all attachments.
pub(super) const DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";

/// The multiport match takes 15 ports (`XT_MULTI_PORTS`).
const PORTS_PER_RULE: usize = 15;

/// The intents of `family`, of which each owner may have one.
pub(super) fn of_family(intents: &[PortForwards], family: Family) -> Vec<&PortForwards> {
    let fits = |intent: &&PortForwards| Family::of(intent.container.ip()) == family && !intent.ports.is_empty();
    intents.iter().filter(fits).collect()
}

/// The rules for one intent.
pub(super) fn wanted(intent: &PortForwards) -> Wanted {
    match rows(&intent.ports) {
        Some(rows) => with_runs(intent, &rows, &rows),
        None => with_runs(intent, &by_address(&intent.ports), &singly(&intent.ports)),
    }
}

/// The rules as the Go plugin makes them: ports in a row have one each.
pub(super) fn wanted_singly(intent: &PortForwards) -> Wanted {
    let runs = singly(&intent.ports);
    with_runs(intent, &runs, &runs)
}

/// `translated` is what the owner's chain does, and `listed` what leads there. A port that is asked for twice is in Go's
/// lists twice, and has one rule.
fn with_runs(intent: &PortForwards, translated: &[Run], listed: &[Run]) -> Wanted {
    let mut known = BTreeSet::new();
    let once = translated.iter().filter(|run| known.insert(**run));
    Wanted {
        kind: Kind::Ports,
        owner: intent.owner.clone(),
        link: intent.link,
        frame: frame(intent),
        body: whole_body(intent, &once.collect::<Vec<_>>()),
        entries: entries(intent, listed).into_iter().map(|args| (DNAT, args)).collect(),
        free_form: !intent.conditions.is_empty(),
    }
}

/// The chain of somebody else's that the rules jump to, if they do.
pub(super) fn external_chain(intent: &PortForwards) -> Option<&str> {
    match &intent.mark {
        MarkChain::External(chain) if intent.snat != Snat::Off => Some(chain),
        _ => None,
    }
}

fn mark_chain(intent: &PortForwards) -> &str {
    match &intent.mark {
        MarkChain::Bit(_) => SETMARK,
        MarkChain::External(chain) => chain,
    }
}

fn frame(intent: &PortForwards) -> Frame {
    let mut frame = Frame { chains: vec![DNAT], rules: Vec::new() };
    if let (MarkChain::Bit(bit), true) = (&intent.mark, intent.snat != Snat::Off) {
        let mask = 1u32.checked_shl(u32::from(*bit)).unwrap_or_default();
        let mark = format!("{mask:#x}/{mask:#x}");
        let says = |chain: &str, text: &str, rest: &[&str]| {
            Rule::new(chain, ["-m", "comment", "--comment", text].iter().chain(rest).copied())
        };
        frame.chains.extend([SETMARK, MASQ]);
        frame.rules.extend([
            (says(SETMARK, "CNI portfwd masquerade mark", &["-j", "MARK", "--set-xmark", &mark]), Place::Last),
            (Rule::new(MASQ, ["-m", "mark", "--mark", &mark, "-j", "MASQUERADE"]), Place::Last),
            // First, for a later rule of the container may accept the packet before it is masqueraded.
            (says("POSTROUTING", "CNI portfwd requiring masquerade", &["-j", MASQ]), Place::First),
        ]);
    }
    for hook in ["PREROUTING", "OUTPUT"] {
        let rule = Rule::new(hook, ["-m", "addrtype", "--dst-type", "LOCAL", "-j", DNAT]);
        frame.rules.push((rule, Place::Last));
    }
    frame
}

/// The comment of a rule for an address that is excluded.
const EXCLUDED: &str = "CNI portfwd excluded address";

/// The addresses that `rules`, an attachment's, exclude.
pub(super) fn excluded(rules: &[Rule]) -> Vec<IpNetwork> {
    let rules = rules.iter().filter(|rule| rule.comment() == Some(EXCLUDED));
    rules.filter_map(|rule| rule.value("-d")?.parse().ok()).collect()
}

/// The rules inside the attachment's chain. Ports on one address come before the addresses that the others exclude.
fn whole_body(intent: &PortForwards, runs: &[&Run]) -> Vec<Vec<String>> {
    let of = |runs: &mut dyn Iterator<Item = &&Run>| runs.flat_map(|run| body(intent, run)).collect::<Vec<_>>();
    if intent.exclude.is_empty() {
        return of(&mut runs.iter());
    }
    let excluded = intent.exclude.iter().map(|net| {
        let args = ["-d", &network(*net), "-m", "comment", "--comment", EXCLUDED, "-j", "RETURN"];
        args.map(str::to_owned).to_vec()
    });
    let on_one = of(&mut runs.iter().filter(|run| run.host_ip.is_some()));
    let on_all = of(&mut runs.iter().filter(|run| run.host_ip.is_none()));
    on_one.into_iter().chain(excluded).chain(on_all).collect()
}

/// The rules for one port or row of ports inside the attachment's chain.
fn body(intent: &PortForwards, run: &Run) -> Vec<Vec<String>> {
    let (protocol, host_port) = (run.protocol.to_string(), run.ports());
    let rule = |source: Option<&str>, target: &[&str]| {
        let mut args: Vec<String> = Vec::new();
        args.extend(source.iter().flat_map(|source| ["-s".to_owned(), (*source).to_owned()]));
        if let Some(ip) = run.host_ip {
            args.extend(["-d".to_owned(), network(ip.into())]);
        }
        let rest = ["-p", &protocol, "-m", &protocol, "--dport", &host_port, "-j"];
        args.extend(rest.iter().chain(target).map(|&arg| arg.to_owned()));
        args
    };
    let mark = [mark_chain(intent)];
    let mut rules = match intent.snat {
        Snat::Off => Vec::new(),
        Snat::All => vec![rule(None, &mark)],
        Snat::Local => vec![rule(Some(&network(intent.container)), &mark)],
    };
    if intent.snat == Snat::Local && intent.container.is_ipv4() {
        rules.push(rule(Some("127.0.0.1/32"), &mark));
    }
    rules.push(rule(None, &["DNAT", "--to-destination", &run.destination()]));
    rules
}

/// The entry rules without their target: per protocol by name, as many as a multiport match takes at a time.
fn entries(intent: &PortForwards, runs: &[Run]) -> Vec<Vec<String>> {
    let text = comment(&format!("dnat name: \"{}\" id: \"{}\"", intent.owner.network, intent.owner.container_id));
    let mut protocols: Vec<String> = runs.iter().map(|run| run.protocol.to_string()).collect();
    protocols.sort();
    protocols.dedup();
    let mut entries = Vec::new();
    for protocol in &protocols {
        let of_protocol = runs.iter().filter(|run| run.protocol.to_string() == *protocol);
        for ports in together(of_protocol) {
            let known = ["-p", protocol, "-m", "comment", "--comment", &text, "-m", "multiport", "--dports", &ports];
            entries.push(known.iter().map(|&arg| arg.to_owned()).chain(intent.conditions.iter().cloned()).collect());
        }
    }
    entries
}

/// Lists of ports, each for one rule.
fn together<'a>(runs: impl Iterator<Item = &'a Run>) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    let mut left = 0;
    for run in runs {
        match lists.last_mut() {
            Some(list) if run.places() <= left => *list = format!("{list},{}", run.ports()),
            _ => {
                lists.push(run.ports());
                left = PORTS_PER_RULE;
            }
        }
        left -= run.places();
    }
    lists
}
