//! Published ports: `PREROUTING` and `OUTPUT` send what is for a local address to `CNI-HOSTPORT-DNAT`, whose rules send
//! an attachment's ports to its chain, whose rules mark what is to be masqueraded and translate the destination.

use super::masquerade::network;
use super::names::Kind;
use super::plan::{Frame, Place, Wanted};
use super::rules::{Rule, comment};
use super::tool::Family;
use crate::{MarkChain, PortForward, PortForwards, Snat};

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
    Wanted {
        kind: Kind::Ports,
        owner: intent.owner.clone(),
        frame: frame(intent),
        body: intent.ports.iter().flat_map(|port| body(intent, port)).collect(),
        entries: entries(intent).into_iter().map(|args| (DNAT, args)).collect(),
        free_form: !intent.conditions.is_empty(),
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

/// The rules for one port inside the attachment's chain.
fn body(intent: &PortForwards, port: &PortForward) -> Vec<Vec<String>> {
    let (protocol, host_port) = (port.protocol.to_string(), port.host_port.to_string());
    let rule = |source: Option<&str>, target: &[&str]| {
        let mut args: Vec<String> = Vec::new();
        args.extend(source.iter().flat_map(|source| ["-s".to_owned(), (*source).to_owned()]));
        if let Some(ip) = port.host_ip.filter(|ip| !ip.is_unspecified()) {
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
    rules.push(rule(None, &["DNAT", "--to-destination", &port.to.to_string()]));
    rules
}

/// The entry rules without their target: per protocol by name, [`PORTS_PER_RULE`] at a time.
fn entries(intent: &PortForwards) -> Vec<Vec<String>> {
    let text = comment(&format!("dnat name: \"{}\" id: \"{}\"", intent.owner.network, intent.owner.container_id));
    let mut protocols: Vec<String> = intent.ports.iter().map(|port| port.protocol.to_string()).collect();
    protocols.sort();
    protocols.dedup();
    let mut entries = Vec::new();
    for protocol in &protocols {
        let of_protocol = intent.ports.iter().filter(|port| port.protocol.to_string() == *protocol);
        let numbers: Vec<String> = of_protocol.map(|port| port.host_port.to_string()).collect();
        for chunk in numbers.chunks(PORTS_PER_RULE) {
            let ports = chunk.join(",");
            let known = ["-p", protocol, "-m", "comment", "--comment", &text, "-m", "multiport", "--dports", &ports];
            entries.push(known.iter().map(|&arg| arg.to_owned()).chain(intent.conditions.iter().cloned()).collect());
        }
    }
    entries
}
