//! CHECK: what is there, compared with what should be, in the order in which packets meet it.
//!
//! Every comparison is one pass over a chain, however many rules it has.

use std::collections::{HashMap, HashSet};

use cni_plugin::Difference;

use super::names::{self, Kind};
use super::plan::{Frame, Wanted};
use super::rules::Rule;
use super::run::numbers;
use super::save::Table;

/// Targets that end a packet's way through a chain. `MASQUERADE` and `SNAT` do as well, and do what ours are for.
const ENDS: [&str; 9] = ["ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "REDIRECT", "NETMAP", "QUEUE", "NFQUEUE"];

impl Frame {
    /// What `table` lacks, and what is in the way. `place` is the tool with the table.
    pub(super) fn differences(&self, table: &Table, place: &str) -> Vec<Difference> {
        let mut found: Vec<Difference> = Vec::new();
        for (wanted, _) in &self.rules {
            let chain = table.chain(&wanted.chain).unwrap_or_default();
            let Some(at) = chain.iter().position(|rule| rule.same_as(wanted)) else {
                found.push(Difference::missing(format!("{place} {wanted}")));
                continue;
            };
            found.extend(chain.iter().take(at).filter(|rule| takes(rule, wanted)).map(in_the_way(place)));
        }
        // What is in the way of two rules is one thing; they stand together.
        found.dedup();
        found
    }
}

impl Wanted {
    /// The chain that CHECK looks at: the owner's, else Go's, else the one that should be there.
    pub(super) fn present_chain(&self, table: &Table) -> String {
        let owned = names::owned(table, self.kind, &self.owner).into_iter().next();
        owned
            .or_else(|| names::unowned(table, self.kind, &self.owner))
            .unwrap_or_else(|| self.kind.shared_name(&self.owner))
    }

    /// What `table` lacks, has in another order, or has in the way.
    pub(super) fn differences(&self, table: &Table, tool: &str) -> Vec<Difference> {
        let place = format!("{tool} -t nat");
        let chain = self.present_chain(table);
        let mut found = self.frame.differences(table, &place);
        found.extend(self.body_differences(table, &chain, &place));
        found.extend(self.entry_differences(table, &chain, &place));
        found
    }

    /// Of the rules in the owner's chain. What comes behind the last of ours is met by no packet of ours: Go's ADD, repeated
    /// on our rules, appends those that it would write otherwise.
    fn body_differences(&self, table: &Table, chain: &str, place: &str) -> Vec<Difference> {
        let Some(there) = table.chain(chain) else { return missing(&self.body(chain), &HashSet::new(), place) };
        let is_gos = names::made_by_go(table, self.kind, &self.owner);
        let wanted = if is_gos { self.body(chain) } else { self.inside(chain) };
        let known: HashSet<_> = wanted.iter().map(Rule::meaning).collect();
        let lacking = missing(&wanted, &there.iter().map(Rule::meaning).collect(), place);
        if !lacking.is_empty() {
            return lacking;
        }
        let foreign = |rule: &&Rule| !known.contains(&rule.meaning());
        let mut ours = there.iter().filter(|rule| !foreign(rule));
        let in_front: Vec<&Rule> = if is_gos {
            // One chain for all interfaces of the container: another one's rules are in nobody's way.
            let last = there.iter().rposition(|rule| !foreign(&rule)).unwrap_or_default();
            let ends = |rule: &&Rule| ends(rule) && rule.target() != Some("DNAT") && foreign(rule);
            let enders = there.iter().take(last).filter(ends);
            enders.filter(|rule| wanted.iter().any(|ours| takes(rule, ours))).collect()
        } else {
            let mut met = 0;
            let before_the_last = there.iter().take_while(|rule| {
                met += usize::from(!foreign(rule));
                met < wanted.len()
            });
            before_the_last.filter(foreign).collect()
        };
        // Go's masquerading of several addresses has its own order, in which the last ones do nothing.
        let is_ordered = self.kind == Kind::Ports || !is_gos;
        let disorder = is_ordered.then(|| disorder(&wanted, &mut ours, place)).flatten();
        in_front.into_iter().map(in_the_way(place)).chain(disorder).collect()
    }

    /// Of the rules that lead to the owner's chain.
    fn entry_differences(&self, table: &Table, chain: &str, place: &str) -> Vec<Difference> {
        let lacking = self.lacking_entries(table, chain).into_iter();
        let mut found: Vec<Difference> = lacking.map(|rule| Difference::missing(format!("{place} {rule}"))).collect();
        let mut hooks: Vec<&str> = self.entries.iter().map(|(hook, _)| *hook).collect();
        hooks.dedup();
        for hook in hooks {
            let rules = table.chain(hook).unwrap_or_default();
            let enders = rules.iter().enumerate().filter(|(_, rule)| ends(rule));
            let blocks = |(at, ender): &(usize, &Rule)| {
                let behind = rules.iter().skip(*at).filter(|rule| rule.target() == Some(chain));
                behind.into_iter().any(|ours| takes(ender, ours))
            };
            found.extend(enders.filter(blocks).map(|(_, rule)| rule).map(in_the_way(place)));
        }
        found
    }

    /// Go's lists have the ports of both families, and so are divided otherwise: only that each port is in one counts.
    fn lacking_entries(&self, table: &Table, chain: &str) -> Vec<Rule> {
        let mut entries = self.entries(chain);
        if names::made_by_go(table, self.kind, &self.owner) {
            let mut there: HashMap<Vec<String>, HashSet<&str>> = HashMap::new();
            for (told, ports) in table.jumps_to(chain).map(|rule| self.told(rule)) {
                there.entry(told).or_default().extend(ports.split(','));
            }
            let has = |told: &Vec<String>, port: &str| there.get(told).is_some_and(|ports| ports.contains(port));
            entries.retain(|wanted| {
                let (told, ports) = self.told(wanted);
                !ports.split(',').all(|port| has(&told, port))
            });
        } else {
            let there: HashSet<_> = table.jumps_to(chain).map(|rule| self.told(rule)).collect();
            entries.retain(|wanted| !there.contains(&self.told(wanted)));
        }
        entries
    }

    /// What the entry `rule` says, as far as can be told from its text, and of which ports.
    fn told<'a>(&self, rule: &'a Rule) -> (Vec<String>, &'a str) {
        let ports = rule.value("--dports").unwrap_or_default();
        if self.free_form {
            let values = ["-p", "--comment"].map(|option| rule.value(option).unwrap_or_default().to_owned());
            return (values.to_vec(), ports);
        }
        let mut told = rule.meaning();
        told.retain(|arg| arg != ports);
        (told, ports)
    }
}

fn missing(wanted: &[Rule], there: &HashSet<Vec<String>>, place: &str) -> Vec<Difference> {
    let lacking = wanted.iter().filter(|rule| !there.contains(&rule.meaning()));
    lacking.map(|rule| Difference::missing(format!("{place} {rule}"))).collect()
}

/// The first place at which `found`, of which all are wanted, is in another order.
fn disorder<'a>(wanted: &[Rule], found: impl Iterator<Item = &'a Rule>, place: &str) -> Option<Difference> {
    let (n, (wanted, found)) = (1..).zip(wanted.iter().zip(found)).find(|(_, (one, other))| !one.same_as(other))?;
    Some(Difference::new(format!("{place} chain {}, rule {n}", wanted.chain), wanted, found))
}

fn in_the_way(place: &str) -> impl Fn(&Rule) -> Difference {
    move |rule| Difference::new(format!("{place} {rule}"), "nothing in front of ours", "this")
}

fn ends(rule: &Rule) -> bool {
    rule.target().is_some_and(|target| ENDS.contains(&target)) || rule.value("-g").is_some()
}

/// True if `first` takes, to another end, whatever would come to `second`: it has no matches but those of `second`, or one
/// for a port of it. What it takes only from some clients is an exception that an operator wanted.
fn takes(first: &Rule, second: &Rule) -> bool {
    if !ends(first) || first.target() == second.target() {
        return false;
    }
    let theirs = matches(second);
    matches(first).iter().all(|one| theirs.contains(one) || is_for_a_port_of(one, second))
}

/// The matches of a rule, each with its value and without the name of the extension that has it.
fn matches(rule: &Rule) -> Vec<String> {
    let args = rule.meaning();
    let mut args = args.iter().map(String::as_str).take_while(|arg| !["-j", "-g"].contains(arg));
    let mut found: Vec<String> = Vec::new();
    let mut negated = false;
    while let Some(arg) = args.next() {
        match arg {
            "-m" | "--comment" => drop(args.next()),
            "!" => negated = true,
            option if option.starts_with('-') => {
                found.push(if negated { format!("! {option}") } else { option.to_owned() });
                negated = false;
            }
            value => {
                let Some(last) = found.last_mut() else { continue };
                last.push(' ');
                last.push_str(value);
            }
        }
    }
    found
}

fn is_for_a_port_of(one: &str, rule: &Rule) -> bool {
    let ports = one.strip_prefix("--dports ").or_else(|| one.strip_prefix("--dport "));
    let theirs = rule.value("--dports").or_else(|| rule.value("--dport"));
    let (Some(ports), Some(theirs)) = (ports, theirs) else { return false };
    let listed = |list: &str| list.split(',').filter_map(numbers).collect::<Vec<_>>();
    let theirs = listed(theirs);
    listed(ports).iter().any(|(first, last)| theirs.iter().any(|(from, to)| first <= to && from <= last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(line: &str) -> Rule {
        Rule::new("X", line.split(' '))
    }

    #[test]
    fn what_takes_all_of_a_rules_packets_is_in_its_way() {
        let entry = rule("-p tcp -m comment --comment a -m multiport --dports 80,8000:8100 -j CNI-DN");
        for first in [
            "-j RETURN",
            "-m comment --comment why -j ACCEPT",
            "-p tcp -j DROP",
            "-p tcp -m tcp --dport 8050 -j REDIRECT --to-ports 1",
            "-p tcp -m multiport --dports 1,80 -g ELSEWHERE",
        ] {
            assert!(takes(&rule(first), &entry), "{first}");
        }
        for first in [
            "-j LOG",
            "-j CNI-DN-2",
            "-p udp -j RETURN",
            "! -p tcp -j RETURN",
            "-p tcp -m tcp --dport 81 -j RETURN",
            "-p tcp -m tcp ! --dport 80 -j RETURN",
            "-s 192.0.2.1/32 -j RETURN",
            "-i eth0 -j RETURN",
        ] {
            assert!(!takes(&rule(first), &entry), "{first}");
        }
        let guard = rule("-i cni0 -j DROP");
        assert!(takes(&rule("-i cni0 -j RETURN"), &guard) && takes(&rule("-j ACCEPT"), &guard));
        assert!(!takes(&rule("-j DROP"), &guard) && !takes(&rule("-i veth1 -j RETURN"), &guard));
    }
}
