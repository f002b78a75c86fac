//! Published ports: `ip cni_ports` and `ip6 cni_ports`. A connection to a published port costs one or two lookups however
//! many there are, and its source address is translated only if its own mapping says so.

use std::collections::BTreeSet;

use cni_plugin::{Difference, NetworkName, Owner};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::{Expressions, Operator};

use super::apply;
use super::comment::{holder, same_owner};
use super::element::{Element, Found, SetId, Value};
use super::error::NftError;
use super::expr::{self, Ip, Side};
use super::frame::{Chain, Rule, TableId};
use super::index::{self, OWNERS};
use super::masquerade::targets;
use super::plan::{Failure, Held, Plan};
use super::portframe::{CLAIMS, SETS, SNAT_ALL, SNAT_LOCAL, TRANSLATE, WHEN, frame, local_sources, table, when};
use super::portkeys::{self, condition_key, forward_key, forward_name, source_key, target};
use super::{Nftables, chains, check, claims, conditions, legacy_ports, localnet, protocol_number, remove, valid_keys};
use crate::{Displaced, Evicted, PortForward, PortForwards, Snat};

const TABLES: [Ip; 2] = [Ip::V4, Ip::V6];
/// How often those in the way of a port are evicted.
const EVICTIONS: u32 = 8;

pub(super) fn plan(intents: &[PortForwards]) -> Result<Plan, NftError> {
    let mut plan = Plan::default();
    let (mut tables, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for intent in intents {
        verify(intent)?;
        if intent.ports.is_empty() {
            continue;
        }
        let ip = Ip::of(intent.container.ip());
        tables.insert(ip);
        plan.register(table(ip), &intent.owner, intent.link);
        if let Some(chain) = add_elements(intent, &mut plan.elements)
            && subnets.insert(chain.name.clone())
        {
            plan.chains.push((table(ip), chain));
        }
        if !intent.conditions.is_empty() || !intent.exclude.is_empty() {
            plan.own_chains.push((table(ip), add_conditions(intent, &mut plan.elements)?));
        }
        if intent.guard_localnet && plan.frames.is_empty() {
            plan.frames.push(localnet::frame());
        }
    }
    plan.frames.extend(tables.into_iter().map(frame));
    plan.deduplicate()?;
    Ok(plan)
}

/// Refuses a mixture of families.
fn verify(intent: &PortForwards) -> Result<(), NftError> {
    let family = intent.container.is_ipv4();
    for port in &intent.ports {
        if port.to.is_ipv4() != family || port.host_ip.is_some_and(|address| address.is_ipv4() != family) {
            return Err(NftError::Family { thing: forward_name(port), to: intent.container.to_string() });
        }
    }
    Ok(())
}

/// The elements of an attachment, and the chain that they lead to if that is not part of the frame.
fn add_elements(intent: &PortForwards, elements: &mut Vec<Element>) -> Option<Chain> {
    let comment = intent.owner.comment();
    let (chain, to) = match intent.snat {
        Snat::Off => (None, None),
        Snat::All => (None, Some(SNAT_ALL.to_owned())),
        Snat::Local => {
            let chain = local_sources(intent.container);
            let name = chain.name.clone();
            (Some(chain), Some(name))
        }
    };
    for port in &intent.ports {
        let (set, key) = forward_key(port);
        let name = forward_name(port);
        elements.push(Element { set, key, value: Value::Data(target(port.to)), comment: comment.clone(), name });
    }
    for port in intent.ports.iter().filter(|_| to.is_some()) {
        let (set, key) = source_key(port);
        let name = format!("source translation of {}", forward_name(port));
        let value = to.clone().map_or(Value::Nothing, Value::Goto);
        elements.push(Element { set, key, value, comment: comment.clone(), name });
    }
    chain
}

/// The elements that lead to the owner's conditions, and the chain with those and with the addresses that it excludes. Without
/// conditions, a port on one address needs none.
fn add_conditions(intent: &PortForwards, elements: &mut Vec<Element>) -> Result<Chain, NftError> {
    let any = conditions::compile(&intent.conditions, Ip::of(intent.container.ip()))?;
    let conditions = intent.conditions.join(" ");
    let chain = when(&intent.owner.key(), exceptions(intent, &conditions, &any), &conditions, any);
    let is_asked = |port: &&PortForward| !intent.conditions.is_empty() || portkeys::specified(port).is_none();
    for port in intent.ports.iter().filter(is_asked) {
        let (set, key) = condition_key(port);
        let (value, comment) = (Value::Goto(chain.name.clone()), intent.owner.comment());
        elements.push(Element { set, key, value, comment, name: format!("conditions of {}", forward_name(port)) });
    }
    Ok(chain)
}

/// What comes before the conditions: the excluded addresses; and before those, with conditions, the ports that are on one of them
/// by name. Without, nobody asks about these.
fn exceptions(intent: &PortForwards, conditions: &str, any: &[Vec<Expressions>]) -> Vec<Rule> {
    let to = |net: IpNetwork| expr::address_in(Side::Destination, net.network(), net.prefix());
    let word = |net: IpNetwork| format!("{} daddr {net}", Ip::of(net.ip()).word());
    let mut rules = Vec::new();
    for port in intent.ports.iter().filter(|_| !intent.conditions.is_empty()) {
        let Some(address) = portkeys::specified(port) else { continue };
        if intent.exclude.iter().any(|net| net.contains(address)) {
            let net = IpNetwork::from(address);
            let (protocol, number) = (port.protocol, port.host_port);
            for all in any {
                let mut expressions = to(net);
                expressions.extend(expr::protocol_is(protocol_number(protocol)));
                expressions.extend([expr::port(0), expr::compare(Operator::Equal, number.to_be_bytes())]);
                expressions.extend(all.iter().cloned().chain([expr::goto(TRANSLATE)]));
                let text = format!("{} {protocol} dport {number} {conditions} goto {TRANSLATE}", word(net));
                rules.push(Rule::new(text, expressions));
            }
        }
    }
    let excluded =
        |net: &IpNetwork| Rule::new(format!("{} return", word(*net)), to(*net).into_iter().chain([expr::return_()]));
    rules.extend(intent.exclude.iter().map(excluded));
    rules
}

fn all_sets() -> Vec<SetId> {
    let of = |ip| SETS.map(|name| SetId { table: table(ip), name });
    of(Ip::V4).into_iter().chain(of(Ip::V6)).collect()
}

fn hinted(hints: &[PortForwards]) -> Vec<(SetId, Vec<u8>)> {
    let mut keys = Vec::new();
    for hint in hints {
        keys.extend(hint.ports.iter().map(forward_key));
        // Whether there are any, the addresses that are excluded by themselves decide too.
        keys.extend(hint.ports.iter().map(condition_key));
        if hint.snat != Snat::Off {
            keys.extend(hint.ports.iter().map(source_key));
        }
    }
    keys
}

fn tables() -> [TableId; 2] {
    TABLES.map(table)
}

/// The sets of both tables and, last, what leads to their elements.
fn all_sets_and_index() -> Vec<SetId> {
    let mut sets = all_sets();
    sets.extend(tables().map(|table| SetId { table, name: OWNERS }));
    sets
}

/// The forwards among removed elements.
fn forwards(removed: &[(SetId, Found)]) -> Vec<PortForward> {
    removed.iter().filter_map(|(set, found)| portkeys::read(*set, found)).collect()
}

impl Nftables {
    /// Publishes ports, of any families and owners together in one transaction; repeating it changes nothing, and the
    /// latest call says what an owner's ports are: what it had beyond that is withdrawn.
    ///
    /// Of two mappings of one port, one on an address and one on all, that on the address applies to it. A port that
    /// another attachment of the same container has is left to that, and taken over when that is removed.
    ///
    /// A holder whose container is gone for certain ([`PortForwards::link`]) is evicted with all its ports. Returns what is
    /// published no more.
    ///
    /// # Errors
    /// [`NftError::HeldBy`] if a port belongs to another owner already, [`NftError::Condition`] for conditions in words that
    /// are not known; nothing has changed then.
    pub fn add_ports(&self, intents: &[PortForwards]) -> Result<Displaced, NftError> {
        let plan = plan(intents)?;
        let mut displaced = Displaced::default();
        if plan.elements.is_empty() {
            return Ok(displaced);
        }
        // In the place of one that is evicted may come another attachment of its container.
        for _ in 0..EVICTIONS {
            let held = match apply::apply(&self.socket, &plan) {
                Err(Failure::Held(held)) => held,
                outcome => {
                    let withdrawn = outcome?;
                    self.tidy(&withdrawn, &plan)?;
                    displaced.withdrawn = forwards(&withdrawn);
                    return Ok(displaced);
                }
            };
            // All or none: whoever lives keeps the port from being published anyway.
            for held in &held {
                if !self.is_gone(held)? {
                    let (thing, holder) = (held.thing.clone(), holder(&held.comment));
                    return Err(NftError::HeldBy { thing, holder });
                }
            }
            for held in &held {
                displaced
                    .evicted
                    .push(Evicted { holder: holder(&held.comment), ports: self.evict_ports(&held.comment)? });
            }
        }
        Err(NftError::Contended { what: "evict containers that are gone".to_owned(), attempts: EVICTIONS })
    }

    /// True if the node's end of the holder's link was known when it published, and the holder is there no more.
    pub(super) fn is_gone(&self, held: &Held) -> Result<bool, NftError> {
        let entries = index::look_up(&self.socket, &[held.table], &held.comment)?;
        let link = entries.into_iter().flatten().map(|entry| entry.link).find(|link| *link != 0);
        let key = held.comment.split(',').next().unwrap_or_default();
        Ok(link.is_some_and(|link| !(self.holder_is_there)(key, link)))
    }

    pub(super) fn evict_ports(&self, comment: &str) -> Result<Vec<PortForward>, NftError> {
        let removed = remove::remove_walking(&self.socket, &all_sets_and_index(), |other| same_owner(other, comment))?;
        self.tidy(&removed, &Plan::default())?;
        Ok(forwards(&removed))
    }

    /// Deletes the chains that only the removed elements led to and that aren't in `plan`.
    fn tidy(&self, removed: &[(SetId, Found)], plan: &Plan) -> Result<(), NftError> {
        if removed.is_empty() {
            return Ok(());
        }
        for ip in TABLES {
            let mut names = targets(removed, table(ip));
            // Conditions of ports that were only claimed were led to by nothing.
            let claims = removed.iter().filter(|(set, _)| set.table == table(ip) && set.name == CLAIMS);
            names.extend(claims.map(|(_, found)| claims::when_of(&found.comment)).collect::<BTreeSet<_>>());
            let planned = plan.chains.iter().chain(&plan.own_chains).filter(|(of, _)| *of == table(ip));
            names.retain(|name| planned.clone().all(|(_, chain)| chain.name != *name));
            delete_unused(self, ip, &names)?;
        }
        Ok(())
    }

    /// Compares what [`Nftables::add_ports`] makes with what is there: each port, the translation of its sources, and the
    /// shared chains with all their rules.
    ///
    /// # Errors
    /// If the kernel cannot be asked, or the intent is one that [`Nftables::add_ports`] refuses.
    pub fn check_ports(&self, intents: &[PortForwards]) -> Result<Vec<Difference>, NftError> {
        check::check(&self.socket, &plan(intents)?)
    }

    /// Removes all ports of the owner, also those that the Go portmap made for its container (`ip` and `ip6`
    /// `cni_hostport`). Idempotent. Returns what was published.
    ///
    /// This takes constant time for each port if `hints`, what the owner is thought to have published, is all that it has,
    /// or if it has nothing; else all elements are read. Nobody else's are ever touched.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, NftError> {
        let removed = remove::remove_owner(&self.socket, &tables(), &all_sets(), &hinted(hints), owner)?;
        self.tidy(&removed, &Plan::default())?;
        legacy_ports::remove(&self.socket, owner.container_id.as_str())?;
        Ok(forwards(&removed))
    }

    /// Removes the ports of all owners of `network` that are not in `valid`, and what no port uses any more.
    /// Idempotent. Returns what was published.
    ///
    /// The rules of the Go portmap do not name the network: see [`Nftables::go_ports`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, NftError> {
        let is_stale = valid_keys(network, valid);
        let removed = remove::remove_walking(&self.socket, &all_sets_and_index(), &is_stale)?;
        for ip in TABLES {
            delete_unused(self, ip, &chains::chains_with(&self.socket, table(ip), SNAT_LOCAL)?)?;
            let whens = chains::chains_with(&self.socket, table(ip), WHEN)?.into_iter();
            let stale = whens.filter(|name| name.strip_prefix(WHEN).is_some_and(&is_stale)).collect::<Vec<_>>();
            delete_unused(self, ip, &stale)?;
        }
        self.remove_former_guard()?;
        Ok(forwards(&removed))
    }
}

/// Deletes those of the subnet chains that no port uses, and the chains of owners that are gone. The chain for all sources is
/// part of the frame and stays.
fn delete_unused(nftables: &Nftables, ip: Ip, names: &[String]) -> Result<(), NftError> {
    for when in names.iter().filter(|name| name.starts_with(WHEN)) {
        chains::delete(&nftables.socket, table(ip), when)?;
    }
    let own_rules = if ip == Ip::V4 { 2 } else { 1 };
    let names: Vec<_> = names.iter().filter(|name| name.starts_with(SNAT_LOCAL)).cloned().collect();
    chains::delete_unused(&nftables.socket, table(ip), &names, own_rules)
}
