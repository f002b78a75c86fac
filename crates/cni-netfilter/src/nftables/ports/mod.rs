//! Published ports: `ip cni_ports` and `ip6 cni_ports`. A connection to a published port costs one or two lookups however
//! many there are, and its source address is translated only if its own mapping says so.

pub(super) mod conditions;
pub(super) mod elements;
pub(super) mod skeleton;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;

use cni_plugin::{Difference, Family, NetworkName, Owner};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::{Expressions, Operator};

use self::elements::{WAITLIST, condition_key, forward_key, source_key, table, target};
pub(super) use self::skeleton::skeleton;
use self::skeleton::{FORWARDS, OWNED, SNAT_ALL, SNAT_LOCAL, TRANSLATE, WHEN, any_of, local_sources, owned_table};
use super::owned::comment::{self, holder, is_stale, same_container, same_owner};
use super::owned::{Failure, Held, Plan, apply, check, index, remove, share};
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{Chain, Element, Found, Key, Rule, Value, chain, element};
use super::wire::NftError;
use super::{Nftables, go_rules, localnet};
use crate::intent::{Displaced, Holder, PortForward, PortForwards, Snat};

/// How often the holders of a port are displaced: once for each container that shared it.
const ATTEMPTS: u32 = 256;

fn plan(intents: &[PortForwards]) -> Result<Plan, NftError> {
    let mut plan = Plan::default();
    let (mut families, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    for intent in intents {
        verify(intent)?;
        if intent.ports.is_empty() {
            continue;
        }
        let family = Family::of(intent.container.ip());
        let table = table(family);
        families.insert(family);
        plan.register(owned_table(family), &intent.owner, intent.link);
        plan.shares.extend(intent.shares.iter().map(|(port, name)| (forward_key(port), name.clone())));
        if let Some(chain) = add_elements(intent, &mut plan.elements)
            && subnets.insert(chain.name.clone())
        {
            plan.shared_chains.push((table, chain));
        }
        if !intent.conditions.is_empty() || !intent.exclude.is_empty() {
            plan.own_chains.push((table, add_conditions(intent, &mut plan.elements)?));
        }
        if intent.guard_localnet && plan.skeletons.is_empty() {
            plan.skeletons.push(localnet::skeleton());
        }
    }
    plan.skeletons.extend(families.into_iter().map(skeleton));
    plan.deduplicate()?;
    Ok(plan)
}

/// Refuses a mixture of families.
fn verify(intent: &PortForwards) -> Result<(), NftError> {
    let family = intent.container.is_ipv4();
    for port in &intent.ports {
        if port.to.is_ipv4() != family || port.host_ip.is_some_and(|address| address.is_ipv4() != family) {
            return Err(NftError::Family { thing: port.name(), to: intent.container.to_string() });
        }
    }
    Ok(())
}

/// The elements of an attachment, and the chain that they lead to if that is not part of the skeleton.
fn add_elements(intent: &PortForwards, elements: &mut Vec<Element>) -> Option<Chain> {
    let mut add = |key, value, name| elements.push(Element { key, value, comment: intent.owner.comment(), name });
    for port in &intent.ports {
        add(forward_key(port), target(port.to), port.name());
    }
    let (chain, to) = match intent.snat {
        Snat::Off => return None,
        Snat::All => (None, SNAT_ALL.to_owned()),
        Snat::Local => {
            let chain = local_sources(intent.container);
            let name = chain.name.clone();
            (Some(chain), name)
        }
    };
    for port in &intent.ports {
        add(source_key(port), Value::Goto(to.clone()), format!("source translation of {}", port.name()));
    }
    chain
}

/// The elements that lead to the owner's conditions, and the chain with those and with the addresses that it excludes. Without
/// conditions, a port on one address needs none.
///
/// A connection for which no condition holds reaches the end of the chain, and is not forwarded.
fn add_conditions(intent: &PortForwards, elements: &mut Vec<Element>) -> Result<Chain, NftError> {
    let any = conditions::compile(&intent.conditions, Family::of(intent.container.ip()))?;
    let mut rules = exceptions(intent, &any);
    rules.extend(any.into_iter().map(translate));
    let chain = Chain::regular(format!("{WHEN}{}", intent.owner.key()), rules);
    let is_asked = |port: &&PortForward| !intent.conditions.is_empty() || port.specified_ip().is_none();
    for port in intent.ports.iter().filter(is_asked) {
        let (key, value, comment) = (condition_key(port), Value::Goto(chain.name.clone()), intent.owner.comment());
        elements.push(Element { key, value, comment, name: format!("conditions of {}", port.name()) });
    }
    Ok(chain)
}

fn translate(mut conditions: Vec<Expressions>) -> Rule {
    conditions.push(expr::goto(TRANSLATE));
    conditions
}

/// What comes before the conditions: the excluded addresses; and before those, with conditions, the ports that are on one of them
/// by name. Without conditions, no packet for these ports comes here.
fn exceptions(intent: &PortForwards, any: &[Vec<Expressions>]) -> Vec<Rule> {
    let to = |net: IpNetwork| expr::address_in(Side::Destination, net.network(), net.prefix());
    let mut rules = Vec::new();
    for port in intent.ports.iter().filter(|_| !intent.conditions.is_empty()) {
        let Some(address) = port.specified_ip() else { continue };
        if intent.exclude.iter().any(|net| net.contains(address)) {
            let number = expr::compare(Operator::Equal, port.host_port.to_be_bytes());
            for all in any {
                let mut rule = to(IpNetwork::from(address));
                rule.extend(expr::protocol_is(port.protocol));
                rule.extend([expr::port(Side::Destination, 0), number.clone()]);
                rules.push(translate(rule.into_iter().chain(all.iter().cloned()).collect()));
            }
        }
    }
    let excluded = |net: &IpNetwork| to(*net).into_iter().chain([expr::return_()]).collect();
    rules.extend(intent.exclude.iter().map(excluded));
    rules
}

fn hinted(hints: &[PortForwards]) -> Vec<Key> {
    let mut keys = Vec::new();
    for hint in hints {
        keys.extend(hint.ports.iter().map(forward_key));
        // Excluded addresses, which a hint may lack, make conditions too.
        keys.extend(hint.ports.iter().map(condition_key));
        if hint.snat != Snat::Off {
            keys.extend(hint.ports.iter().map(source_key));
        }
    }
    keys
}

/// The forwards among removed elements.
fn forwards(removed: &[Found]) -> Vec<PortForward> {
    removed.iter().filter_map(elements::read).collect()
}

impl Nftables {
    /// Publishes ports, of any families and owners together in one transaction; repeating it changes nothing, and the
    /// latest call says what an owner's ports are: what it had beyond that is withdrawn.
    ///
    /// Of two mappings of one port, one on an address and one on all, that on the address applies to it. A port that
    /// another attachment of the same container has is left to that, and taken over when that is removed.
    ///
    /// A holder whose container is gone for certain ([`PortForwards::link`]) is displaced, with all its ports. Returns those, and
    /// what the owners of `intents` had and no longer want.
    ///
    /// # Errors
    /// [`NftError::HeldBy`] if a port belongs to another owner already, [`NftError::Condition`] for conditions in words that
    /// are not known; nothing has changed then.
    pub fn add_ports(&self, intents: &[PortForwards]) -> Result<(Vec<Displaced>, Vec<PortForward>), NftError> {
        let plan = plan(intents)?;
        let mut displaced = Vec::new();
        if plan.elements.is_empty() {
            return Ok((displaced, Vec::new()));
        }
        // In the place of one that is displaced may come another attachment of its container.
        for _ in 0..ATTEMPTS {
            match apply::apply(&self.socket, &plan) {
                Err(Failure::Held(held)) => displaced.extend(self.displace(held)?),
                Err(error) if !plan.shares.is_empty() => return self.can_share().and(Err(error.into())),
                outcome => {
                    let withdrawn = outcome?;
                    self.delete_unused_chains(&withdrawn, &plan)?;
                    return Ok((displaced, forwards(&withdrawn)));
                }
            }
        }
        Err(NftError::Contended { what: "displace containers that are gone".to_owned(), attempts: ATTEMPTS })
    }

    /// The targets of all members of these ports. One request for each port, and one for each member.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn members(&self, ports: &[PortForward]) -> Result<HashSet<SocketAddr>, NftError> {
        let keys: Vec<Key> = ports.iter().map(forward_key).collect();
        let members = share::members(&self.socket, &OWNED, &keys)?;
        Ok(members.iter().filter_map(elements::read).map(|member| member.to).collect())
    }

    /// Fails as [`Nftables::add_ports`] does if another container has one of the ports, displaces holders that are gone, and adds
    /// nothing. For a port that is about to be published by other means than these tables. A request for each port, but one for all
    /// where nothing is published.
    ///
    /// # Errors
    /// [`NftError::HeldBy`]; nothing has changed then.
    pub fn free_ports(&self, intents: &[PortForwards]) -> Result<Vec<Displaced>, NftError> {
        let mut displaced = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut held = Vec::new();
            for intent in intents {
                if chain::exists(&self.socket, table(Family::of(intent.container.ip())), FORWARDS)? {
                    held.extend(self.held_by_others(intent)?);
                }
            }
            if held.is_empty() {
                return Ok(displaced);
            }
            displaced.extend(self.displace(held)?);
        }
        Err(NftError::Contended { what: "displace containers that are gone".to_owned(), attempts: ATTEMPTS })
    }

    fn held_by_others(&self, intent: &PortForwards) -> Result<Vec<Held>, NftError> {
        let own = intent.owner.comment();
        let keys: Vec<_> = intent.ports.iter().map(forward_key).collect();
        let found = element::look_up(&self.socket, &keys)?;
        let of_others = |comment: &str| !same_owner(comment, &own) && !same_container(comment, &own);
        let mut held: Vec<Held> = Vec::new();
        for (port, found) in intent.ports.iter().zip(found) {
            let Some(found) = found.filter(|found| of_others(&found.comment)) else { continue };
            if held.iter().all(|known| !same_owner(&known.comment, &found.comment)) {
                held.push(Held { table: found.key.set.table, thing: port.name(), comment: found.comment });
            }
        }
        Ok(held)
    }

    /// Displaces these holders if all of them are gone: one that is alive keeps the port from being published anyway.
    fn displace(&self, held: Vec<Held>) -> Result<Vec<Displaced>, NftError> {
        for held in &held {
            if !self.is_gone(held)? {
                let (thing, holder) = (held.thing.clone(), holder(&held.comment));
                return Err(NftError::HeldBy { thing, holder });
            }
        }
        let displace = |held: Held| {
            let removed = remove::matching(&self.socket, &OWNED, |other| same_owner(other, &held.comment))?;
            self.delete_unused_chains(&removed, &Plan::default())?;
            Ok(Displaced { holder: holder(&held.comment), ports: forwards(&removed) })
        };
        held.into_iter().map(displace).collect()
    }

    /// True if the holder, with the link that it registered when it published, may be displaced.
    fn is_gone(&self, held: &Held) -> Result<bool, NftError> {
        let entries = index::look_up(&self.socket, [held.table], &held.comment)?;
        let link = entries.into_iter().flatten().map(|entry| entry.link).find(|link| *link != 0);
        Ok(Holder { key: comment::key(&held.comment), link }.yields_port(self.holder_is_there))
    }

    /// Deletes the chains that only the removed elements led to and that aren't in `plan`.
    fn delete_unused_chains(&self, removed: &[Found], plan: &Plan) -> Result<(), NftError> {
        for family in Family::ALL {
            let table = table(family);
            let mut names = remove::targets(removed, table);
            // Nothing led to the conditions of an owner that was only in the waitlist.
            let waited = removed.iter().filter(|found| found.key.set.table == table && found.key.set.name == WAITLIST);
            let whens = waited.map(|found| format!("{WHEN}{}", comment::key(&found.comment)));
            names.extend(whens.collect::<BTreeSet<_>>());
            let planned = plan.shared_chains.iter().chain(&plan.own_chains).filter(|(of, _)| *of == table);
            names.retain(|name| planned.clone().all(|(_, chain)| chain.name != *name));
            self.delete_chains(family, &names)?;
        }
        Ok(())
    }

    /// Deletes those of the subnet chains that no port uses, and the chains of owners. The chain for all sources is
    /// part of the skeleton and stays.
    fn delete_chains(&self, family: Family, names: &[String]) -> Result<(), NftError> {
        for when in names.iter().filter(|name| name.starts_with(WHEN)) {
            chain::delete(&self.socket, table(family), when)?;
        }
        let own_rules = if family == Family::V4 { 2 } else { 1 };
        let subnets: Vec<_> = names.iter().filter(|name| name.starts_with(SNAT_LOCAL)).cloned().collect();
        chain::delete_unused(&self.socket, table(family), &subnets, own_rules)
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
    /// or if it has nothing; else all elements are read. Other owners' are never touched.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, NftError> {
        let removed = remove::of_owner(&self.socket, &OWNED, &hinted(hints), owner)?;
        self.delete_unused_chains(&removed, &Plan::default())?;
        go_rules::ports::remove(&self.socket, owner.container_id.as_str())?;
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
        let is_stale = is_stale(network, valid);
        let removed = remove::matching(&self.socket, &OWNED, &is_stale)?;
        for family in Family::ALL {
            let table = table(family);
            let mut chains = chain::starting_with(&self.socket, table, SNAT_LOCAL)?;
            let whens = chain::starting_with(&self.socket, table, WHEN)?.into_iter();
            chains.extend(whens.filter(|name| name.strip_prefix(WHEN).is_some_and(&is_stale)));
            self.delete_chains(family, &chains)?;
        }
        Ok(forwards(&removed))
    }

    /// Asks the kernel whether it can publish ports in IPv4 or, failing that, in IPv6; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing for IPv4.
    pub fn can_publish(&self) -> Result<(), NftError> {
        let v4 = apply::rehearse(&self.socket, [&skeleton(Family::V4), &localnet::skeleton()]);
        let either = v4.or_else(|error| apply::rehearse(&self.socket, [&skeleton(Family::V6)]).map_err(|_| error));
        either
            .map_err(|refused| refused.or_unusable("forward ports", "nft_nat, nft_chain_nat, nft_fib_ipv4 and nft_ct"))
    }

    /// Asks the kernel whether several containers can share a port, if it can publish any.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_share(&self) -> Result<(), NftError> {
        let with_choice = |family| {
            let mut skeleton = skeleton(family);
            skeleton.chains.push(any_of(family, 1));
            skeleton
        };
        let [v4, v6] = [Family::V4, Family::V6].map(|family| apply::rehearse(&self.socket, [&with_choice(family)]));
        v4.or_else(|error| v6.map_err(|_| error))
            .map_err(|refused| refused.or_unusable("share ports among containers", "nft_numgen and nft_nat"))
    }

    /// What [`Nftables::add_ports`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_ports(intents: &[PortForwards]) -> Result<String, NftError> {
        Ok(plan(intents)?.to_string())
    }
}
