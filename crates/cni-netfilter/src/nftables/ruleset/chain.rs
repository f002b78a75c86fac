//! Chains: created, compared with what the kernel lists, and deleted when no element leads to them any more.

use std::fmt;

use ipnetwork::IpNetwork;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, Hook, InetHookNumber, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use rustix::io::Errno;

use super::{Rule, print};
use crate::nftables::wire::{Batch, NftError, Socket, Table, TableFamily, attribute, part};

/// What every request for a chain is called in messages.
const LOOK: &str = "look for a chain";

/// Where destinations and sources are translated (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`).
pub(crate) const DSTNAT: i32 = -100;
pub(crate) const SRCNAT: i32 = 100;

/// Where a base chain is attached. Displays as the nft language has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kind: &'static str,
    pub(crate) hook: InetHookNumber,
    pub(crate) priority: i32,
}

impl Base {
    fn attributes(self) -> [ChainAttribute; 2] {
        [
            ChainAttribute::Hook(vec![Hook::Number(self.hook.into()), Hook::Priority(self.priority.cast_unsigned())]),
            ChainAttribute::Type(self.kind.to_owned()),
        ]
    }

    /// Where a listed chain is attached, in the words of [`Base`]; `None` if it is no base chain.
    fn describe(listed: &[ChainAttribute]) -> Option<String> {
        let hook = part!(listed, ChainAttribute::Hook)?;
        let (number, priority) = (part!(hook, Hook::Number)?, part!(hook, Hook::Priority)?);
        Some(attached(part!(listed, ChainAttribute::Type)?, u32::from(*number), priority.cast_signed()))
    }
}

fn attached(kind: &str, hook: u32, priority: i32) -> String {
    // NF_INET_PRE_ROUTING … NF_INET_POST_ROUTING
    let name = ["prerouting", "input", "forward", "output", "postrouting"];
    let hook = usize::try_from(hook).ok().and_then(|hook| name.get(hook)).unwrap_or(&"(unknown)");
    format!("type {kind} hook {hook} priority {priority}")
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&attached(self.kind, self.hook.into(), self.priority))
    }
}

/// A chain; without `base` it is reached by jumps only.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

impl Chain {
    /// A chain that other chains and elements lead to.
    pub(crate) fn regular(name: impl Into<String>, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), base: None, rules }
    }

    /// A chain of this type that the kernel calls at `hook`.
    pub(crate) fn base(name: &str, kind: &'static str, hook: InetHookNumber, priority: i32, rules: Vec<Rule>) -> Self {
        Self { name: name.to_owned(), base: Some(Base { kind, hook, priority }), rules }
    }

    /// Adds the message that creates the chain unless it exists.
    pub(crate) fn declare(&self, table: Table<'_>, batch: &mut Batch) {
        let mut attributes = place(table, &self.name);
        attributes.extend(self.base.into_iter().flat_map(Base::attributes));
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        batch.push(table, format!("add chain {table} {}", self.name), NLM_F_CREATE, message);
    }

    /// Adds the messages that make its rules these and no others.
    pub(crate) fn fill(&self, table: Table<'_>, batch: &mut Batch) {
        batch.flush_chain(table, &self.name);
        for rule in &self.rules {
            batch.append_rule(table, &self.name, rule);
        }
    }

    /// Where a listed chain of the same name is attached instead of where this one is; `None` if it is in the right place. The
    /// kernel doesn't move a chain.
    pub(crate) fn misplaced(&self, listed: &ChainMessage) -> Option<String> {
        let base = self.base?.to_string();
        let found = Base::describe(&listed.attributes).unwrap_or_else(|| "a chain without a hook".to_owned());
        (found != base).then_some(found)
    }

    /// True if rules of it are missing for certain in a listed chain. What leads to a chain counts like its rules, so this cannot tell
    /// in all cases ([`Chain::is_emptied`]), but it costs nothing.
    pub(crate) fn lacks_rules(&self, listed: &ChainMessage) -> bool {
        used(listed).is_some_and(|used| usize::try_from(used).is_ok_and(|used| used < self.rules.len()))
    }

    /// True if rules are missing of a chain that others lead to. One request, whatever else is in the table.
    pub(crate) fn is_emptied(&self, socket: &Socket, table: Table<'_>) -> Result<bool, NftError> {
        Ok(self.base.is_none() && !self.rules.is_empty() && count_rules(socket, table, &self.name)? < self.rules.len())
    }

    /// Prints it as a chain of a table of this family.
    pub(crate) fn print(&self, f: &mut fmt::Formatter<'_>, family: TableFamily) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = self.base {
            writeln!(f, "\t\t{base}; policy accept;")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{}", print::rule(family, rule))?;
        }
        writeln!(f, "\t}}")
    }
}

fn place(table: Table<'_>, name: &str) -> Vec<ChainAttribute> {
    vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(name.to_owned())]
}

/// The number of rules in a listed chain and of rules and elements that lead to it.
fn used(listed: &ChainMessage) -> Option<u32> {
    part!(listed.attributes, ChainAttribute::Use).copied()
}

impl Table<'_> {
    /// A request for a chain.
    pub(crate) fn chain_request(self, name: &str) -> NetfilterMessage {
        self.request(NfTablesMessage::GetChain(ChainMessage { attributes: place(self, name) }))
    }

    /// A request for the chains of all tables of this family.
    pub(crate) fn chains_request(self) -> NetfilterMessage {
        self.request(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))
    }
}

impl Batch {
    /// Adds the message that deletes a chain with its rules: `EBUSY` if something leads to it.
    pub(crate) fn delete_chain(&mut self, table: Table<'_>, name: &str) {
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes: place(table, name) });
        self.push(table, format!("delete chain {table} {name}"), 0, message);
    }
}

/// How many rules are in a chain and lead to it; `None` if there is no such chain.
pub(crate) fn uses(socket: &Socket, table: Table<'_>, name: &str) -> Result<Option<u32>, NftError> {
    Ok(match socket.find(LOOK, table.chain_request(name))? {
        Some(NfTablesMessage::NewChain(listed)) => Some(used(&listed).unwrap_or(0)),
        _ => None,
    })
}

/// How many rules are in a chain; none if there is no such chain. One request, whatever else is in the table.
pub(crate) fn count_rules(socket: &Socket, table: Table<'_>, name: &str) -> Result<usize, NftError> {
    let what = format!("count the rules of {table} {name}");
    socket.dump_state(&what, &table.rules_request(Some(name)), |rules: &mut usize, _| {
        *rules += 1;
        Ok(())
    })
}

/// True if there is such a chain.
pub(crate) fn exists(socket: &Socket, table: Table<'_>, name: &str) -> Result<bool, NftError> {
    Ok(uses(socket, table, name)?.is_some())
}

/// Deletes those of the chains `names` that no element leads to any more: whose use count is not above the number of
/// their own rules. An element that is added at the same time wins (`EBUSY`), so this can only ever do too little.
pub(crate) fn delete_unused(
    socket: &Socket,
    table: Table<'_>,
    names: &[String],
    own_rules: u32,
) -> Result<(), NftError> {
    let requests = names.iter().map(|name| table.chain_request(name)).collect();
    for (name, answer) in names.iter().zip(socket.ask(LOOK, requests)?) {
        let Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(listed))) = answer else { continue };
        if used(&listed).is_some_and(|used| used <= own_rules) {
            delete(socket, table, name)?;
        }
    }
    Ok(())
}

/// Deletes a chain with its rules; one that is still in use stays, and one that has gone is fine.
pub(crate) fn delete(socket: &Socket, table: Table<'_>, name: &str) -> Result<(), NftError> {
    let mut batch = Batch::default();
    batch.delete_chain(table, name);
    match socket.commit(&batch, None) {
        Err(error) if !matches!(error.errno(), Some(Errno::BUSY | Errno::NOENT)) => Err(error),
        _ => Ok(()),
    }
}

/// The names of all chains of `table` that begin with `prefix`.
pub(crate) fn starting_with(socket: &Socket, table: Table<'_>, prefix: &str) -> Result<Vec<String>, NftError> {
    let mut names = Vec::new();
    socket.dump(&format!("list the chains of {table}"), &table.chains_request(), |message| {
        // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME
        let (of, name) = (attribute::text(message.attributes(), 1), attribute::text(message.attributes(), 3));
        names.extend(name.filter(|name| of.as_deref() == Some(table.name) && name.starts_with(prefix)));
        Ok(())
    })?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The chain for a subnet: `subnet-10.0.0.0/16`, `subnet-fd00__/64` (the nft language has no `:` in names).
pub(crate) fn subnet_name(prefix: &str, subnet: IpNetwork) -> String {
    format!("{prefix}{}/{}", subnet.network(), subnet.prefix()).replace(':', "_")
}

/// The subnet of a chain that [`subnet_name`] named.
pub(crate) fn subnet_of(prefix: &str, chain: &str) -> Option<IpNetwork> {
    let subnet = chain.strip_prefix(prefix)?.replace('_', ":").parse().ok()?;
    (subnet_name(prefix, subnet) == chain).then_some(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_name_contains_its_subnet() {
        for subnet in ["10.0.0.0/16", "fd00::/64", "::/0"] {
            let subnet: IpNetwork = subnet.parse().unwrap();
            assert_eq!(subnet_of("subnet-", &subnet_name("subnet-", subnet)), Some(subnet));
        }
        for strange in ["subnet-10.0.0.1/16", "subnet-x", "other-10.0.0.0/16", "subnet-"] {
            assert_eq!(subnet_of("subnet-", strange), None, "{strange}");
        }
    }
}
