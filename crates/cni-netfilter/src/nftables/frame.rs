//! Tables, sets, chains and rules as data, and the messages that create them.

use std::fmt;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, InetHookNumber, NfTablesMessage, RuleAttribute, RuleMessage,
    SetAttribute, SetMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::batch::Batch;
use super::expr::Ip;
use super::raw;
use super::set::Set;

/// Where destinations are translated (`NF_IP_PRI_NAT_DST`).
pub(super) const DSTNAT: i32 = -100;
/// Where sources are translated (`NF_IP_PRI_NAT_SRC`).
pub(super) const SRCNAT: i32 = 100;

/// A table's name and family. Displays as the nft language has it: `inet cni_masquerade`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TableId {
    pub(super) family: Family,
    pub(super) name: &'static str,
}

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Inet,
    Only(Ip),
    Bridge,
}

impl Family {
    pub(super) fn number(self) -> NetfilterProtoFamily {
        match self {
            Self::Inet => NetfilterProtoFamily::Inet,
            Self::Only(ip) => ip.number().into(),
            Self::Bridge => NetfilterProtoFamily::Bridge,
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Only(ip) => ip.word(),
            Family::Bridge => "bridge",
        };
        write!(f, "{family} {}", self.name)
    }
}

impl TableId {
    /// A question about something in this table, outside of a transaction.
    pub(super) fn question(self, message: NfTablesMessage) -> NetfilterMessage {
        NetfilterMessage::new(NetfilterHeader::new(self.family.number(), 0, 0), message)
    }

    /// The message that asks for the table.
    pub(super) fn question_itself(self) -> NetfilterMessage {
        self.question(NfTablesMessage::GetTable(TableMessage { attributes: self.attributes() }))
    }

    /// Adds the message that ends the table's being dormant. Not together with base chains: the kernel refuses those in a
    /// transaction that changes the flags of their table (`nf_tables_addchain`).
    pub(super) fn wake(self, batch: &mut Batch) {
        let mut attributes = self.attributes();
        attributes.push(TableAttribute::Flags(TableFlags::empty()));
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        batch.push(format!("wake table {self}"), self.family.number(), NLM_F_CREATE, message);
    }

    fn attributes(self) -> Vec<TableAttribute> {
        vec![TableAttribute::Name(self.name.to_owned())]
    }
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) kind: &'static str,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
}

impl Base {
    fn attributes(self) -> [ChainAttribute; 2] {
        [
            ChainAttribute::Hook(vec![Hook::Number(self.hook.into()), Hook::Priority(self.priority.cast_unsigned())]),
            ChainAttribute::Type(self.kind.to_owned()),
        ]
    }

    /// True if the kernel's listing of a chain says the same.
    pub(super) fn matches(self, listed: &[ChainAttribute]) -> bool {
        Self::words(listed).is_some_and(|words| words == self.to_string())
    }

    /// Where a listed chain is attached, in the same words as ours; `None` if it is no base chain.
    pub(super) fn words(listed: &[ChainAttribute]) -> Option<String> {
        let (mut kind, mut number, mut priority) = (None, None, None);
        for attribute in listed {
            match attribute {
                ChainAttribute::Type(name) => kind = Some(name),
                ChainAttribute::Hook(hook) => {
                    for part in hook {
                        match part {
                            Hook::Number(hook) => number = Some(u32::from(*hook)),
                            Hook::Priority(value) => priority = Some(value.cast_signed()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(attached(kind?, number?, priority?))
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

/// A rule, with its text in the nft language for messages.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) text: String,
    pub(super) expressions: Vec<Expressions>,
}

impl Rule {
    pub(super) fn new(text: impl Into<String>, expressions: impl IntoIterator<Item = Expressions>) -> Self {
        Self { text: text.into(), expressions: expressions.into_iter().collect() }
    }
}

/// A chain; without `base` it is reached by jumps only.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

impl Chain {
    /// Adds the messages that create the chain unless it exists.
    pub(super) fn declare(&self, table: TableId, batch: &mut Batch) {
        let mut attributes =
            vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(self.name.clone())];
        attributes.extend(self.base.into_iter().flat_map(Base::attributes));
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        batch.push(format!("add chain {table} {}", self.name), table.family.number(), NLM_F_CREATE, message);
    }

    /// Adds the messages that make its rules these and no others.
    pub(super) fn fill(&self, table: TableId, batch: &mut Batch) {
        let family = table.family.number();
        let place = || vec![RuleAttribute::Table(table.name.to_owned()), RuleAttribute::Chain(self.name.clone())];
        let flush = NfTablesMessage::DeleteRule(RuleMessage { attributes: place() });
        batch.push(format!("flush chain {table} {}", self.name), family, 0, flush);
        for rule in &self.rules {
            let mut attributes = place();
            attributes.push(RuleAttribute::Expressions(rule.expressions.iter().cloned().map(Into::into).collect()));
            let message = NfTablesMessage::NewRule(RuleMessage { attributes });
            let what = format!("add rule {table} {} {}", self.name, rule.text);
            batch.push(what, family, NLM_F_CREATE | NLM_F_APPEND, message);
        }
    }

    /// The message that asks for it.
    pub(super) fn question(table: TableId, name: &str) -> NetfilterMessage {
        let attributes = vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(name.to_owned())];
        table.question(NfTablesMessage::GetChain(ChainMessage { attributes }))
    }
}

/// A table of ours with everything in it that does not belong to a single container.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) table: TableId,
    pub(super) comment: &'static str,
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
    /// What should be in a chain that isn't the frame's and whose name tells, as that of a subnet does.
    pub(super) by_name: fn(&str) -> Option<Chain>,
}

impl Frame {
    /// Adds the messages that create what is missing and make the rules of its chains these and no others.
    pub(super) fn install(&self, batch: &mut Batch) {
        let (table, family) = (self.table, self.table.family.number());
        let mut attributes = table.attributes();
        attributes.push(TableAttribute::UserData(raw::comment(self.comment)));
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        batch.push(format!("add table {table}"), family, NLM_F_CREATE, message);
        for (id, set) in (1..).zip(&self.sets) {
            batch.push(format!("add set {table} {}", set.name), family, NLM_F_CREATE, set.create(table, id));
        }
        for chain in &self.chains {
            chain.declare(table, batch);
        }
        for chain in &self.chains {
            chain.fill(table, batch);
        }
    }

    /// Messages that ask for the table, then for each chain, then for each set of it.
    pub(super) fn questions(&self) -> Vec<NetfilterMessage> {
        let chains = self.chains.iter().map(|chain| Chain::question(self.table, &chain.name));
        let sets = self.sets.iter().map(|set| self.set_question(set));
        [self.table.question_itself()].into_iter().chain(chains).chain(sets).collect()
    }

    /// The message that asks for a set.
    pub(super) fn set_question(&self, set: &Set) -> NetfilterMessage {
        let attributes = vec![SetAttribute::Table(self.table.name.to_owned()), SetAttribute::Name(set.name.to_owned())];
        self.table.question(NfTablesMessage::GetSet(SetMessage { attributes }))
    }
}

/// The subnet of a chain that [`subnet_chain`] named.
pub(super) fn subnet_of(prefix: &str, chain: &str) -> Option<IpNetwork> {
    let subnet = chain.strip_prefix(prefix)?.replace('_', ":").parse().ok()?;
    (subnet_chain(prefix, subnet) == chain).then_some(subnet)
}

/// The name of a chain for a subnet: `subnet-10.0.0.0/16`, `subnet-fd00__/64` (the nft language has no `:` in names).
pub(super) fn subnet_chain(prefix: &str, subnet: IpNetwork) -> String {
    format!("{prefix}{}/{}", subnet.network(), subnet.prefix()).replace(':', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_tells_its_subnet() {
        for subnet in ["10.0.0.0/16", "fd00::/64", "::/0"] {
            let subnet: IpNetwork = subnet.parse().unwrap();
            assert_eq!(subnet_of("subnet-", &subnet_chain("subnet-", subnet)), Some(subnet));
        }
        for strange in ["subnet-10.0.0.1/16", "subnet-x", "other-10.0.0.0/16", "subnet-"] {
            assert_eq!(subnet_of("subnet-", strange), None, "{strange}");
        }
    }
}
