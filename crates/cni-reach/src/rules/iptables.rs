//! Tables of iptables, from the text of `iptables-save`, and what they do to a packet.

use std::net::{IpAddr, SocketAddr};

use cni_plugin::{Family, Protocol, addr};
use ipnetwork::IpNetwork;

use super::{Culprit, Evaluation, Hook, Published, Verdict};

/// How deep the kernel lets jumps go (`NF_MAX_..`: the stack of iptables is as deep as there are chains).
const DEEPEST: usize = 64;

/// A table with its chains.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) is_legacy: bool,
    chains: Vec<Chain>,
}

#[derive(Debug)]
struct Chain {
    name: String,
    /// `None` for a chain that is no base chain.
    policy: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// As `iptables-save` prints it.
    text: String,
    words: Vec<String>,
}

/// The tables in what `iptables-save` printed.
pub(super) fn parse(text: &str, family: Family, is_legacy: bool) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { family, name: name.to_owned(), is_legacy, chains: Vec::new() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some((name, rest)) = line.strip_prefix(':').and_then(|chain| chain.split_once(' ')) {
            let policy = rest.split(' ').next().filter(|policy| *policy != "-").map(str::to_owned);
            table.chains.push(Chain { name: name.to_owned(), policy, rules: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words = split(rest);
            let Some((chain, words)) = words.split_first() else { continue };
            if let Some(chain) = table.chains.iter_mut().find(|known| known.name == *chain) {
                chain.rules.push(Rule { text: line.to_owned(), words: words.to_vec() });
            }
        }
    }
    tables
}

/// Words, with double quotes and backslashes as `iptables-save` writes them.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut some) = (Vec::new(), String::new(), false, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => (quoted, some) = (!quoted, true),
            '\\' => word.extend(letters.next()),
            ' ' if !quoted => {
                if some || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                some = false;
            }
            other => word.push(other),
        }
    }
    if some || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What matches and targets of one rule say.
enum Step {
    Matches,
    DoesNot,
    Unknown,
}

impl Table {
    /// Hook, priority and chain of each base chain (`NF_IP_PRI_…`).
    pub(super) fn base_chains(&self) -> impl Iterator<Item = (Hook, i64, String)> + '_ {
        self.chains.iter().filter(|chain| chain.policy.is_some()).filter_map(|chain| {
            let hook = match chain.name.as_str() {
                "PREROUTING" => Hook::Prerouting,
                "INPUT" => Hook::Input,
                "FORWARD" => Hook::Forward,
                "OUTPUT" => Hook::Output,
                "POSTROUTING" => Hook::Postrouting,
                _ => return None,
            };
            let priority = match self.name.as_str() {
                "raw" => -300,
                "mangle" => -150,
                "nat" if hook.translates_source() => 100,
                "nat" => -100,
                "security" => 50,
                _ => 0,
            };
            Some((hook, priority, chain.name.clone()))
        })
    }

    fn label(&self) -> String {
        format!("{} {}", self.tool(), self.name)
    }

    fn tool(&self) -> String {
        let six = if self.family == Family::V6 { "6" } else { "" };
        format!("ip{six}tables{}", if self.is_legacy { "-legacy" } else { "" })
    }

    fn culprit(&self, chain: &str, rule: &str) -> Culprit {
        Culprit {
            table: self.label(),
            chain: chain.to_owned(),
            rule: rule.to_owned(),
            shown_by: format!("{} -t {} -S {chain}", self.tool(), self.name),
        }
    }

    pub(super) fn evaluate(&self, chain: &str, of: &mut Evaluation<'_>) -> Verdict {
        if self.family != of.packet.family() {
            return Verdict::Continue;
        }
        match self.walk(chain, of, 0) {
            Verdict::Continue => {
                let policy = self.chains.iter().find(|known| known.name == chain).and_then(|c| c.policy.as_deref());
                match policy {
                    Some("DROP") => Verdict::Drop(self.culprit(chain, "policy DROP")),
                    _ => Verdict::Accept,
                }
            }
            decided => decided,
        }
    }

    fn walk(&self, chain: &str, of: &mut Evaluation<'_>, depth: usize) -> Verdict {
        let Some(chain) = self.chains.iter().find(|known| known.name == chain).filter(|_| depth < DEEPEST) else {
            return Verdict::Continue;
        };
        for rule in &chain.rules {
            match matches(rule, of, self.name == "nat") {
                Step::DoesNot => continue,
                Step::Unknown => {
                    of.not_understood(self.culprit(&chain.name, &rule.text));
                    continue;
                }
                Step::Matches => {}
            }
            let Some((is_goto, target)) = target(&rule.words) else { continue };
            match self.apply(target, rule, &chain.name, of, depth) {
                Some(Verdict::Continue) if is_goto || target == "RETURN" => return Verdict::Continue,
                None | Some(Verdict::Continue) => {}
                Some(decided) => return decided,
            }
        }
        Verdict::Continue
    }

    /// `None`: the packet goes on with the next rule.
    fn apply(&self, target: &str, rule: &Rule, chain: &str, of: &mut Evaluation<'_>, depth: usize) -> Option<Verdict> {
        let nat = |to: Option<SocketAddr>| to.map(|to| Verdict::Nat(to, self.culprit(chain, &rule.text)));
        match target {
            "ACCEPT" => Some(Verdict::Accept),
            "DROP" | "REJECT" => Some(Verdict::Drop(self.culprit(chain, &rule.text))),
            "RETURN" => Some(Verdict::Continue),
            "MASQUERADE" => nat(of.masqueraded()),
            "SNAT" => nat(value(&rule.words, "--to-source").and_then(|to| endpoint(to, of.packet.src))),
            "DNAT" => nat(value(&rule.words, "--to-destination").and_then(|to| endpoint(to, of.packet.dst))),
            "REDIRECT" => {
                let port = value(&rule.words, "--to-ports").and_then(|port| port.parse().ok());
                nat(of.redirected(port))
            }
            "MARK" => {
                of.packet.mark = marked(of.packet.mark, &rule.words)?;
                None
            }
            "CONNMARK" | "LOG" | "NFLOG" | "TCPMSS" | "TRACE" | "CHECKSUM" | "CLASSIFY" | "DSCP" | "TOS" | "AUDIT" => {
                None
            }
            name if self.chains.iter().any(|known| known.name == name) => Some(self.walk(name, of, depth + 1)),
            _ => {
                of.not_understood(self.culprit(chain, &rule.text));
                None
            }
        }
    }

    /// What this table's rules publish of a port.
    pub(super) fn published(&self, port: u16) -> Vec<Published> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        rules
            .filter(|rule| value(&rule.words, "-j") == Some("DNAT"))
            .filter(|rule| {
                let one = value(&rule.words, "--dport").or_else(|| value(&rule.words, "--dports"));
                one.is_some_and(|ports| in_ports(ports, port))
            })
            .map(|rule| Published {
                address: value(&rule.words, "-d").and_then(network).map(|network| network.ip()),
                protocol: value(&rule.words, "-p").unwrap_or("any").to_owned(),
                to: value(&rule.words, "--to-destination").and_then(|to| to.parse().ok()),
            })
            .collect()
    }
}

fn value<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == option)?;
    words.get(at + 1).map(String::as_str)
}

/// Whether it is a goto, and where to.
fn target(words: &[String]) -> Option<(bool, &str)> {
    value(words, "-j").map(|to| (false, to)).or_else(|| value(words, "-g").map(|to| (true, to)))
}

/// `10.0.0.2:80`, `10.0.0.2`, `[fd00::2]:80`; of several addresses or ports, it isn't known which.
fn endpoint(text: &str, present: SocketAddr) -> Option<SocketAddr> {
    let whole = text.parse::<SocketAddr>().ok();
    whole.or_else(|| text.trim_matches(['[', ']']).parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, present.port())))
}

fn network(text: &str) -> Option<IpNetwork> {
    addr::parse_cidr(text).or_else(|| text.parse::<IpAddr>().ok().map(IpNetwork::from))
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `VALUE/MASK`.
fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

fn marked(mark: u32, words: &[String]) -> Option<u32> {
    // iptables prints --set-mark, --or-mark and --and-mark as --set-xmark.
    if let Some((value, mask)) = value(words, "--set-xmark").and_then(masked) {
        return Some((mark & !mask) ^ value);
    }
    let (value, mask) = value(words, "--set-mark").and_then(masked)?;
    Some((mark & !mask) | value)
}

fn in_ports(list: &str, port: u16) -> bool {
    list.split(',').any(|part| match part.split_once(':') {
        Some((low, high)) => (low.parse().unwrap_or(0)..=high.parse().unwrap_or(u16::MAX)).contains(&port),
        None => part.parse() == Ok(port),
    })
}

fn interface(pattern: &str, name: Option<&str>) -> bool {
    let name = name.unwrap_or_default();
    pattern.strip_suffix('+').map_or(pattern == name, |start| name.starts_with(start))
}

/// Whether all matches of the rule hold.
fn matches(rule: &Rule, of: &Evaluation<'_>, is_nat: bool) -> Step {
    let mut words = rule.words.iter().map(String::as_str).peekable();
    let (mut negated, mut is_unknown) = (false, false);
    while let Some(word) = words.next() {
        match word {
            "!" => {
                negated = true;
                continue;
            }
            // What follows is the target's.
            "-j" | "-g" => break,
            "-m" => {
                words.next();
            }
            option => {
                let mut takes = || words.next().unwrap_or_default();
                match holds(option, &mut takes, of, is_nat) {
                    Some(holds) if holds == negated => return Step::DoesNot,
                    Some(_) => {}
                    None => {
                        is_unknown = true;
                        // Its values.
                        while words.peek().is_some_and(|next| !next.starts_with('-') && *next != "!") {
                            words.next();
                        }
                    }
                }
            }
        }
        negated = false;
    }
    if is_unknown { Step::Unknown } else { Step::Matches }
}

/// Whether one match holds; `None` if it isn't known.
fn holds<'a>(option: &str, takes: &mut dyn FnMut() -> &'a str, of: &Evaluation<'_>, is_nat: bool) -> Option<bool> {
    let packet = &of.packet;
    let ct = packet.ct.as_ref();
    Some(match option {
        "-s" | "--source" => network(takes())?.contains(packet.src.ip()),
        "-d" | "--destination" => network(takes())?.contains(packet.dst.ip()),
        "-i" => interface(takes(), packet.iif.as_deref()),
        "-o" => interface(takes(), packet.oif.as_deref()),
        "-p" => is_protocol(takes(), packet.protocol_number()),
        "--dport" | "--dports" | "--destination-port" => {
            packet.protocol.is_some() && in_ports(takes(), packet.dst.port())
        }
        "--sport" | "--sports" => packet.protocol.is_some() && in_ports(takes(), packet.src.port()),
        "--ports" => {
            let ports = takes();
            in_ports(ports, packet.dst.port()) || in_ports(ports, packet.src.port())
        }
        "--comment" => {
            takes();
            true
        }
        "--mark" => {
            let (value, mask) = masked(takes())?;
            packet.mark & mask == value
        }
        "--ctstate" | "--state" => takes().split(',').any(|state| is_state(state, of, is_nat)),
        "--ctdir" => (takes() == "REPLY") == ct.is_some_and(|ct| ct.answers.is_some()),
        "--ctorigdst" => network(takes())?.contains(ct?.original.1.ip()),
        "--ctorigsrc" => network(takes())?.contains(ct?.original.0.ip()),
        "--ctorigdstport" => in_ports(takes(), ct?.original.1.port()),
        "--ctproto" => is_protocol(takes(), packet.protocol_number()),
        "--ctstatus" => takes().split(',').any(|status| match status {
            "DNAT" => ct.is_some_and(|ct| ct.dnat),
            "SNAT" => ct.is_some_and(|ct| ct.snat),
            _ => false,
        }),
        "--dst-type" => of.around.is_local(packet.dst.ip()) == local(takes())?,
        "--src-type" => of.around.is_local(packet.src.ip()) == local(takes())?,
        "--src-range" | "--dst-range" => {
            let (low, high) = takes().split_once('-')?;
            let address = if option == "--src-range" { packet.src.ip() } else { packet.dst.ip() };
            (low.parse::<IpAddr>().ok()?..=high.parse::<IpAddr>().ok()?).contains(&address)
        }
        "--syn" => packet.protocol == Some(Protocol::Tcp) && !packet.is_reply,
        // A limit lets the first packet pass.
        "--limit" | "--limit-burst" => {
            takes();
            true
        }
        "--icmp-type" | "--icmpv6-type" => {
            let echo = if packet.is_reply { ["0", "129", "echo-reply"] } else { ["8", "128", "echo-request"] };
            let wanted = takes();
            packet.protocol.is_none() && (wanted == "any" || wanted == "255" || echo.contains(&wanted))
        }
        _ => return None,
    })
}

/// `addrtype` of LOCAL and UNICAST; of others nothing is known.
fn local(kind: &str) -> Option<bool> {
    match kind {
        "LOCAL" => Some(true),
        "UNICAST" => Some(false),
        _ => None,
    }
}

fn is_protocol(name: &str, number: u8) -> bool {
    let known = match name {
        "all" | "0" => return true,
        "icmp" => Some(1),
        "icmpv6" | "ipv6-icmp" => Some(58),
        other => Protocol::from_name_or_number(other).map(Protocol::number).or_else(|| other.parse().ok()),
    };
    known == Some(number)
}

fn is_state(state: &str, of: &Evaluation<'_>, is_nat: bool) -> bool {
    let Some(ct) = &of.packet.ct else { return state == "UNTRACKED" && !is_nat };
    match state {
        "DNAT" => ct.dnat,
        "SNAT" => ct.snat,
        _ => state.eq_ignore_ascii_case(ct.state()),
    }
}
