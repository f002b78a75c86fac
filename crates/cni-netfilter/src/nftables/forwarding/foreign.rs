//! Base chains of other programs at the forward hook that would drop what this plugin accepts: a drop is final, whatever
//! accepted before or accepts later, and nothing should be written into a chain whose owner is unknown.
//!
//! A rule set can't be understood in general, so a chain is named only if it drops a new connection of the container for
//! certain ([`super::evaluate`]). Chains of family `bridge` aren't looked at: packets that are forwarded from one network to
//! another don't pass through them.

use std::net::IpAddr;

use cni_plugin::{Difference, Family};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{ChainAttribute, Hook, NfTablesMessage};

use super::evaluate::{Connection, drops};
use super::skeleton::{ACCEPTING, MARK, TABLE};
use crate::nftables::Nftables;
use crate::nftables::ruleset::expression::DROP;
use crate::nftables::ruleset::skeleton::is_dormant;
use crate::nftables::ruleset::{Rule, element, rule};
use crate::nftables::wire::{NftError, Socket, Table, TableFamily, part};

/// `NF_INET_FORWARD`.
const FORWARD_HOOK: u32 = 2;

/// A base chain of another program.
#[derive(Debug)]
struct Foreign {
    family: TableFamily,
    table: String,
    name: String,
    kind: String,
    hook: Option<u32>,
    priority: i32,
    drops: bool,
}

impl Foreign {
    fn read(family: TableFamily, listed: &[ChainAttribute]) -> Self {
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let hook = part!(listed, ChainAttribute::Hook);
        Self {
            family,
            table: text(part!(listed, ChainAttribute::Table)),
            name: text(part!(listed, ChainAttribute::Name)),
            kind: text(part!(listed, ChainAttribute::Type)),
            hook: hook.and_then(|hook| part!(hook, Hook::Number)).map(|number| u32::from(*number)),
            priority: hook.and_then(|hook| part!(hook, Hook::Priority)).map_or(0, |priority| priority.cast_signed()),
            drops: part!(listed, ChainAttribute::Policy) == Some(&DROP),
        }
    }

    fn table(&self) -> Table<'_> {
        Table { family: self.family, name: &self.table }
    }

    /// True for the chain that the iptables-nft tools fill.
    fn is_iptables(&self) -> bool {
        self.family != TableFamily::Inet && self.table == "filter" && self.name == "FORWARD"
    }

    fn concerns(&self, family: Family) -> bool {
        let has_family = [TableFamily::Inet, family.into()].contains(&self.family);
        has_family && self.kind == "filter" && self.hook == Some(FORWARD_HOOK) && self.table != TABLE.name
    }
}

impl Nftables {
    /// The chains of other programs that drop what is forwarded for `addresses`; without any, for all IPv4 addresses.
    ///
    /// `with_iptables` says whether the chain of iptables-nft is one of the others.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn obstacles(&self, addresses: &[IpAddr], with_iptables: bool) -> Result<Vec<Difference>, NftError> {
        let whose: Vec<Option<IpAddr>> =
            if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() };
        let mut obstacles = Vec::new();
        for chain in forward_chains(&self.socket)? {
            let concerned = |address: &Option<IpAddr>| chain.concerns(address.map_or(Family::V4, Family::of));
            let concerned: Vec<Option<IpAddr>> = whose.iter().copied().filter(concerned).collect();
            let dropped = match chain.is_iptables() {
                _ if concerned.is_empty() => None,
                // Its jumps lead to chains of Docker's and others', which know nothing of our containers.
                true => concerned.first().copied().filter(|_| with_iptables && chain.drops),
                false => unless_contended(dropped(&self.socket, &chain, concerned))?,
            };
            if let Some(address) = dropped
                && !is_in_dormant_table(&self.socket, &chain)?
            {
                obstacles.push(describe(&chain, address));
            }
        }
        Ok(obstacles)
    }
}

fn describe(chain: &Foreign, address: Option<IpAddr>) -> Difference {
    let whom = address.map_or_else(|| "containers".to_owned(), |address| address.to_string());
    let how = if chain.drops { "its policy is drop" } else { "a rule drops them" };
    let hint = match chain.priority > ACCEPTING {
        true => format!(" (packets that this plugin accepts with backend nftables have the mark {MARK:#x} there)"),
        false => String::new(),
    };
    let expected = format!("a rule that accepts forwarded packets of {whom}");
    Difference::new(
        format!("nftables chain {} {}", chain.table(), chain.name),
        expected,
        format!("none, and {how}{hint}"),
    )
}

fn forward_chains(socket: &Socket) -> Result<Vec<Foreign>, NftError> {
    let mut chains: Vec<Foreign> = Vec::new();
    for family in [TableFamily::Inet, TableFamily::Ip, TableFamily::Ip6] {
        socket.dump("list the chains", &Table { family, name: "" }.chains_request(), |message| {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(found)) =
                message.decode("list the chains")?
            else {
                return Ok(());
            };
            let chain = Foreign::read(family, &found.attributes);
            // A dump that was repeated lists a chain again.
            let known =
                |other: &Foreign| (other.family, &other.table, &other.name) == (family, &chain.table, &chain.name);
            if chain.hook.is_some() && !chains.iter().any(known) {
                chains.push(chain);
            }
            Ok(())
        })?;
    }
    Ok(chains)
}

/// Rules that change all the time get the benefit of the doubt.
fn unless_contended<T>(outcome: Result<Option<T>, NftError>) -> Result<Option<T>, NftError> {
    match outcome {
        Err(NftError::Contended { .. }) => Ok(None),
        outcome => outcome,
    }
}

/// The first of `whose` that the chain drops.
fn dropped(socket: &Socket, chain: &Foreign, whose: Vec<Option<IpAddr>>) -> Result<Option<Option<IpAddr>>, NftError> {
    let listed = rule::list(socket, chain.table(), Some(&chain.name))?;
    let rules: Vec<Rule> = listed.into_iter().map(|rule| rule.expressions).collect();
    let keys = |set: &str| element::keys_of_any(socket, chain.table(), set);
    // Before this plugin's chain nothing has the mark.
    let is_marked = chain.priority > ACCEPTING;
    for address in whose {
        if drops(&rules, chain.drops, &Connection { address, is_marked, keys: &keys })? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// True if the administrator has switched the chain's table off.
fn is_in_dormant_table(socket: &Socket, chain: &Foreign) -> Result<bool, NftError> {
    Ok(socket.find("look for a table", chain.table().request_itself())?.is_some_and(|table| is_dormant(&table)))
}
