//! Other people's base chains at the forward hook that would drop what we accept: a drop is final, whoever accepted
//! before or accepts later, and into a chain whose owner we don't know nothing should be written.
//!
//! A rule set can't be understood in general, so a chain is named only if it surely drops a new connection of the
//! container's ([`super::firewall_fate`]). Chains of family `bridge` aren't looked at: what is forwarded from one network to
//! another doesn't pass through them.

use std::net::IpAddr;

use cni_plugin::Difference;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, NfTablesMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};

use super::error::NftError;
use super::firewall_fate::{self as fate, Connection};
use super::firewall_frame::{ACCEPT, MARK, TABLE};
use super::transport::Socket;
use super::{Nftables, check, element};

/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `NF_INET_FORWARD`.
const FORWARD_HOOK: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;

/// A base chain of somebody else's.
#[derive(Debug, Default)]
struct Foreign {
    family: u8,
    table: String,
    name: String,
    kind: String,
    hook: Option<u32>,
    priority: i32,
    drops: bool,
}

impl Foreign {
    fn read(family: u8, attributes: Vec<ChainAttribute>) -> Self {
        let mut chain = Self { family, ..Self::default() };
        for attribute in attributes {
            match attribute {
                ChainAttribute::Table(name) => chain.table = name,
                ChainAttribute::Name(name) => chain.name = name,
                ChainAttribute::Type(kind) => chain.kind = kind,
                ChainAttribute::Policy(policy) => chain.drops = policy == DROP,
                ChainAttribute::Hook(parts) => parts.iter().for_each(|part| match part {
                    Hook::Number(number) => chain.hook = Some(u32::from(*number)),
                    Hook::Priority(priority) => chain.priority = priority.cast_signed(),
                    _ => {}
                }),
                _ => {}
            }
        }
        chain
    }

    /// True for the chain that the iptables-nft tools fill.
    fn is_iptables(&self) -> bool {
        self.family != INET && self.table == "filter" && self.name == "FORWARD"
    }

    fn concerns(&self, v4: bool) -> bool {
        let family = self.family == INET || self.family == if v4 { IPV4 } else { IPV6 };
        family && self.kind == "filter" && self.hook == Some(FORWARD_HOOK) && self.table != TABLE.name
    }
}

impl Nftables {
    /// The chains of others that drop what is forwarded for `addresses`; without any, for some IPv4 address.
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
            let concerned = |address: &Option<IpAddr>| chain.concerns(address.is_none_or(|a| a.is_ipv4()));
            let concerned: Vec<Option<IpAddr>> = whose.iter().copied().filter(concerned).collect();
            let dropped = match chain.is_iptables() {
                _ if concerned.is_empty() => None,
                // Its jumps lead to chains of Docker's and others', which know nothing of our containers.
                true => concerned.first().copied().filter(|_| with_iptables && chain.drops),
                false => unless_contended(dropped(&self.socket, &chain, concerned))?,
            };
            if let Some(address) = dropped
                && !is_dormant(&self.socket, &chain)?
            {
                obstacles.push(describe(&chain, address));
            }
        }
        Ok(obstacles)
    }
}

fn describe(chain: &Foreign, address: Option<IpAddr>) -> Difference {
    let family = match chain.family {
        INET => "inet",
        IPV4 => "ip",
        _ => "ip6",
    };
    let (table, name) = (&chain.table, &chain.name);
    let whom = address.map_or_else(|| "containers".to_owned(), |address| address.to_string());
    let how = if chain.drops { "its policy is drop" } else { "a rule drops it" };
    let hint = match chain.priority > ACCEPT {
        true => format!(" (packets that this plugin accepts with backend nftables have the mark {MARK:#x} there)"),
        false => String::new(),
    };
    let expected = format!("rules that let through what is forwarded for {whom}");
    Difference::new(format!("nftables chain {family} {table} {name}"), expected, format!("none, and {how}{hint}"))
}

fn forward_chains(socket: &Socket) -> Result<Vec<Foreign>, NftError> {
    let mut chains: Vec<Foreign> = Vec::new();
    for family in [INET, IPV4, IPV6] {
        let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
        let question = NetfilterMessage::new(NetfilterHeader::new(family.into(), 0, 0), message);
        socket.dump("list the chains", &question, |message| {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(found)) =
                message.decode("list the chains")?
            else {
                return Ok(());
            };
            let chain = Foreign::read(family, found.attributes);
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
    let rules = check::rules_of_any(socket, chain.family, &chain.table, &chain.name)?;
    let rules: Vec<Vec<&Expressions>> =
        rules.iter().map(|rule| rule.iter().filter_map(check::data_of).collect()).collect();
    let keys = |set: &str| element::keys_of_any(socket, chain.family, &chain.table, set);
    // Where our own chain comes later, nothing has the mark yet.
    let is_marked = chain.priority > ACCEPT;
    for address in whose {
        if fate::drops(&rules, chain.drops, &Connection { address, is_marked, keys: &keys })? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// True if the administrator has switched the chain's table off.
fn is_dormant(socket: &Socket, chain: &Foreign) -> Result<bool, NftError> {
    let attributes = vec![TableAttribute::Name(chain.table.clone())];
    let message = NfTablesMessage::GetTable(TableMessage { attributes });
    let question = NetfilterMessage::new(NetfilterHeader::new(chain.family.into(), 0, 0), message);
    let Some(Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)))) =
        socket.ask("look for a table", vec![question])?.pop()
    else {
        return Ok(false);
    };
    let dormant = |a: &TableAttribute| matches!(a, TableAttribute::Flags(flags) if flags.contains(TableFlags::Dormant));
    Ok(table.attributes.iter().any(dormant))
}
