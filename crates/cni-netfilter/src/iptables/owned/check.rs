//! CHECK: the existing rules compared with the wanted ones, in the order in which packets traverse them.
//!
//! Every comparison is one pass over a chain, however many rules it has.

use std::collections::{HashMap, HashSet};

use cni_plugin::Difference;

use super::chain::OwnedChain;
use super::skeleton::Skeleton;
use crate::iptables::tool::{IptablesError, Rule, RuleSet, Script, ScriptCommand, Table, Tools, command, port_numbers};

/// Targets that end the traversal of a chain. `MASQUERADE` and `SNAT` do so too, but have the effect of this plugin's rules.
const ENDS: [&str; 9] = ["ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "REDIRECT", "NETMAP", "QUEUE", "NFQUEUE"];

/// What `table` lacks of what `wanted` have, and what is in the way. Only where the entries are of free form and the text
/// can't tell, the tool is asked.
///
/// What `-C` says can't be relied on to tell all rules apart: ip6tables 1.8.9 (legacy) ignores ports, addresses to
/// translate to and much else in it, iptables 1.8.11 (nft) ignores interfaces.
pub(crate) fn check(
    tools: Tools,
    table: &Table,
    wanted: impl IntoIterator<Item = OwnedChain>,
) -> Result<Vec<Difference>, IptablesError> {
    let mut differences = Vec::new();
    for wanted in wanted {
        let found = wanted.differences(table, command(tools.family()));
        if found.is_empty() && wanted.free_form {
            differences.extend(check_conditions(tools, &wanted, table)?);
        }
        differences.extend(found);
    }
    Ok(differences)
}

/// The entry rules have the right ports and lead to the right chain; whether their conditions are the configured ones,
/// only the tool can tell.
fn check_conditions(tools: Tools, wanted: &OwnedChain, table: &Table) -> Result<Option<Difference>, IptablesError> {
    let chain = wanted.present_chain(table);
    let entries = wanted.entries(&chain);
    let there = RuleSet::of(table.jumps_to(&chain));
    if entries.iter().all(|rule| there.has(rule)) {
        return Ok(None);
    }
    let mut script = Script::new(table.name());
    script.check(&entries);
    match tools.restore(&script) {
        Ok(_) => Ok(None),
        Err(error) if error.is_refusal() => {
            let thing = format!("{} -t {} entry rules of {chain}", command(tools.family()), table.name());
            let expected: Vec<String> = entries.iter().map(ToString::to_string).collect();
            let found: Vec<String> = table.jumps_to(&chain).map(ToString::to_string).collect();
            Ok(Some(Difference::new(thing, expected.join(", "), found.join(", "))))
        }
        Err(error) => Err(error),
    }
}

/// The rules that a plan adds to `before`, as differences: missing, or, if `before` has them, behind what they have to
/// precede. `place` is the tool with the table.
pub(crate) fn additions<'a>(
    changes: impl IntoIterator<Item = &'a ScriptCommand>,
    before: &Table,
    place: &str,
) -> Vec<Difference> {
    let difference = |change: &ScriptCommand| match change {
        ScriptCommand::Insert(rule) | ScriptCommand::Append(rule) => {
            let thing = format!("{place} {rule}");
            Some(match before.has(rule) {
                true => Difference::new(thing, "in front of the rules that accept", "behind one"),
                false => Difference::missing(thing),
            })
        }
        _ => None,
    };
    changes.into_iter().filter_map(difference).collect()
}

impl Skeleton {
    /// What `table` lacks, and what is in the way. `place` is the tool with the table.
    pub(crate) fn differences(&self, table: &Table, place: &str) -> Vec<Difference> {
        let mut found: Vec<Difference> = Vec::new();
        for (wanted, _) in &self.rules {
            match table.rules(&wanted.chain).position(|rule| rule.same_as(wanted)) {
                None => found.push(Difference::missing(format!("{place} {wanted}"))),
                Some(at) => {
                    let before = table.rules(&wanted.chain).take(at).filter(|rule| takes(rule, wanted));
                    found.extend(before.map(in_the_way(place)));
                }
            }
        }
        // What is in the way of two rules is one thing; they stand together.
        found.dedup();
        found
    }
}

impl OwnedChain {
    /// What `table` lacks, has in another order, or has in the way.
    pub(crate) fn differences(&self, table: &Table, tool: &str) -> Vec<Difference> {
        let place = format!("{tool} -t {}", table.name());
        let chain = self.present_chain(table);
        let mut found = self.skeleton.differences(table, &place);
        found.extend(self.body_differences(table, &chain, &place));
        found.extend(self.entry_differences(table, &chain, &place));
        found
    }

    /// Differences of the rules in the owner's chain. Rules after this plugin's last one match none of its packets: the Go
    /// plugin's ADD, repeated on this plugin's rules, appends its own spelling of them there.
    fn body_differences(&self, table: &Table, chain: &str, place: &str) -> Vec<Difference> {
        let made_by_go = self.kind.made_by_go(table, &self.owner);
        let wanted = if made_by_go || !table.has_chain(chain) { self.body(chain) } else { self.inside(chain) };
        let lacking = missing(&wanted, &RuleSet::of(table.rules(chain)), place);
        if !lacking.is_empty() {
            return lacking;
        }
        let known = RuleSet::of(&wanted);
        let there: Vec<(&Rule, bool)> = table.rules(chain).map(|rule| (rule, known.has(rule))).collect();
        let foreign_before = |end| there.iter().take(end).filter(|(_, is_ours)| !is_ours).map(|(rule, _)| *rule);
        let ours = there.iter().enumerate().filter(|(_, (_, is_ours))| *is_ours);
        let in_front: Vec<&Rule> = if made_by_go {
            // One chain for all interfaces of the container: what another one's rules translate is not for this one.
            let last = ours.clone().next_back().map_or(0, |(at, _)| at);
            let enders = foreign_before(last).filter(|rule| ends(rule) && rule.target() != Some("DNAT"));
            enders.filter(|rule| wanted.iter().any(|ours| takes(rule, ours))).collect()
        } else {
            let last = ours.clone().nth(wanted.len().saturating_sub(1)).map_or(there.len(), |(at, _)| at);
            foreign_before(last).collect()
        };
        // Go's masquerading of several addresses has its own order, in which the last ones do nothing.
        let is_ordered = self.kind.go_is_of_container || !made_by_go;
        let disorder = is_ordered.then(|| disorder(&wanted, ours.map(|(_, (rule, _))| *rule), place)).flatten();
        in_front.into_iter().map(in_the_way(place)).chain(disorder).collect()
    }

    /// Of the rules that lead to the owner's chain.
    fn entry_differences(&self, table: &Table, chain: &str, place: &str) -> Vec<Difference> {
        let lacking = self.lacking_entries(table, chain).into_iter();
        let mut found: Vec<Difference> = lacking.map(|rule| Difference::missing(format!("{place} {rule}"))).collect();
        let mut hooks: Vec<&str> = self.entries.iter().map(|rule| rule.chain.as_str()).collect();
        hooks.dedup();
        for hook in hooks {
            let enders = table.rules(hook).enumerate().filter(|(_, rule)| ends(rule));
            let blocks = |(at, ender): &(usize, &Rule)| {
                let mut behind = table.rules(hook).skip(*at).filter(|rule| rule.target() == Some(chain));
                behind.any(|ours| takes(ender, ours))
            };
            found.extend(enders.filter(blocks).map(|(_, rule)| rule).map(in_the_way(place)));
        }
        found
    }

    /// Go's lists have the ports of both families, and so are divided otherwise: only that each port is in one counts.
    fn lacking_entries(&self, table: &Table, chain: &str) -> Vec<Rule> {
        let mut entries = self.entries(chain);
        if self.kind.made_by_go(table, &self.owner) {
            let mut there: HashMap<Vec<String>, HashSet<&str>> = HashMap::new();
            for (rest, ports) in table.jumps_to(chain).map(|rule| self.split_ports(rule)) {
                there.entry(rest).or_default().extend(ports.split(','));
            }
            let has = |rest: &Vec<String>, port: &str| there.get(rest).is_some_and(|ports| ports.contains(port));
            entries.retain(|wanted| {
                let (rest, ports) = self.split_ports(wanted);
                !ports.split(',').all(|port| has(&rest, port))
            });
        } else {
            let there: HashSet<_> = table.jumps_to(chain).map(|rule| self.split_ports(rule)).collect();
            entries.retain(|wanted| !there.contains(&self.split_ports(wanted)));
        }
        entries
    }

    /// What the entry `rule` matches, as far as its text tells reliably, and its list of ports.
    fn split_ports<'a>(&self, rule: &'a Rule) -> (Vec<String>, &'a str) {
        let ports = rule.value("--dports").unwrap_or_default();
        if self.free_form {
            let values = ["-p", "--comment"].map(|option| rule.value(option).unwrap_or_default().to_owned());
            return (values.to_vec(), ports);
        }
        let mut rest = rule.meaning();
        rest.retain(|arg| arg != ports);
        (rest, ports)
    }
}

fn missing(wanted: &[Rule], there: &RuleSet, place: &str) -> Vec<Difference> {
    let lacking = wanted.iter().filter(|rule| !there.has(rule));
    lacking.map(|rule| Difference::missing(format!("{place} {rule}"))).collect()
}

/// The first place at which `found`, of which all are wanted, is in another order.
fn disorder<'a>(wanted: &[Rule], found: impl Iterator<Item = &'a Rule>, place: &str) -> Option<Difference> {
    let (n, (wanted, found)) = (1..).zip(wanted.iter().zip(found)).find(|(_, (one, other))| !one.same_as(other))?;
    Some(Difference::new(format!("{place} chain {}, rule {n}", wanted.chain), wanted, found))
}

fn in_the_way(place: &str) -> impl Fn(&Rule) -> Difference {
    move |rule| Difference::new(format!("{place} {rule}"), "no rule before those of this plugin", "this one")
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
    let others = matches(second);
    matches(first).iter().all(|one| others.contains(one) || is_for_a_port_of(one, second))
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
    let others = rule.value("--dports").or_else(|| rule.value("--dport"));
    let (Some(ports), Some(others)) = (ports, others) else { return false };
    let listed = |list: &str| list.split(',').filter_map(port_numbers).collect::<Vec<_>>();
    let others = listed(others);
    listed(ports).iter().any(|(first, last)| others.iter().any(|(from, to)| first <= to && from <= last))
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
