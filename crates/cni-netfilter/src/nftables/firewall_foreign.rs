//! Other people's base chains at the forward hook that would drop what we accept: a drop is final, whoever accepted
//! before or accepts later, and into a chain whose owner we don't know nothing should be written.
//!
//! A rule set can't be understood in general, so a chain is named only if it surely drops a new connection of the
//! container's: its last word is a drop, and no rule before that could be about such a connection and accept it.

use std::net::IpAddr;

use cni_plugin::Difference;
use netlink_packet_core::Nla;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner};

use super::error::NftError;
use super::expr::octets;
use super::firewall_frame::{MARK, NF_ACCEPT, TABLE};
use super::transport::Socket;
use super::{Nftables, check};

/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `NF_INET_FORWARD`.
const FORWARD_HOOK: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const NEW: u8 = 1 << 3;

/// A base chain of somebody else's.
#[derive(Debug, Default)]
struct Foreign {
    family: u8,
    table: String,
    name: String,
    kind: String,
    hook: Option<u32>,
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
                ChainAttribute::Hook(parts) => {
                    let number = |part: &Hook| if let Hook::Number(n) = part { Some(u32::from(*n)) } else { None };
                    chain.hook = parts.iter().find_map(number);
                }
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
            let concerned =
                whose.iter().find(|address| chain.concerns(address.is_none_or(|address| address.is_ipv4())));
            let Some(address) = concerned else { continue };
            let drops = match chain.is_iptables() {
                // Its jumps lead to chains of Docker's and others', which know nothing of our containers.
                true => with_iptables && chain.drops,
                false => surely_drops(&self.socket, &chain, *address)?,
            };
            if drops {
                obstacles.push(describe(&chain, *address));
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
    let last = if chain.drops { "its policy is drop" } else { "its last rule drops" };
    Difference::new(
        format!("nftables chain {family} {table} {name}"),
        format!("rules that let through what is forwarded for {whom}"),
        format!(
            "none, and {last} (packets that this plugin accepts with backend nftables have the mark {MARK:#x} there)"
        ),
    )
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

fn surely_drops(socket: &Socket, chain: &Foreign, address: Option<IpAddr>) -> Result<bool, NftError> {
    let rules = check::rules_of_any(socket, chain.family, &chain.table, &chain.name)?;
    let rules: Vec<Vec<&Expressions>> =
        rules.iter().map(|rule| rule.iter().filter_map(check::data_of).collect()).collect();
    let last_drops = rules.last().is_some_and(|rule| drops_all(rule));
    Ok((chain.drops || last_drops) && !rules.iter().any(|rule| may_admit(rule, address)))
}

/// Nothing but a drop, counted or logged.
fn drops_all(rule: &[&Expressions]) -> bool {
    rule.iter().all(|expression| match expression {
        Expressions::Immediate(immediate) => code_of(immediate) == Some(Verdict::Other(DROP)),
        Expressions::Other { expression_type, .. } => ["counter", "log", "reject"].contains(&expression_type.as_str()),
        _ => false,
    }) && rule.iter().any(|expression| match expression {
        Expressions::Immediate(_) => true,
        Expressions::Other { expression_type, .. } => expression_type == "reject",
        _ => false,
    })
}

fn code_of(immediate: &[Immediate]) -> Option<Verdict> {
    immediate.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => verdict.iter().find_map(|part| match part {
            VerdictAttribute::Code(code) => Some(*code),
            _ => None,
        }),
        _ => None,
    })
}

/// What the register holds that a rule loaded last.
enum Loaded {
    /// The connection's state, less the bits that were masked away.
    State {
        with_new: bool,
    },
    Incoming,
    /// So many bytes of the source address, as far as they weren't masked away.
    Source(Vec<u8>),
    /// Part of what a protocol above IP says: such a rule is about some connections only.
    Above,
    Other,
}

/// False if the rule accepts nothing, or only what a new connection of `address` can't be.
fn may_admit(rule: &[&Expressions], address: Option<IpAddr>) -> bool {
    let mut loaded = Loaded::Other;
    for expression in rule {
        match expression {
            Expressions::Meta(meta) => loaded = load_meta(meta),
            Expressions::Payload(payload) => loaded = load_payload(payload, address),
            Expressions::Other { expression_type, attributes } if expression_type == "ct" => {
                // NFTA_CT_KEY: NFT_CT_STATE
                let is_state = attributes.iter().any(|nla| nla.kind() == 2 && value_of(nla).iter().all(|b| *b == 0));
                loaded = if is_state { Loaded::State { with_new: true } } else { Loaded::Other };
            }
            Expressions::Bitwise(bitwise) => apply_mask(&mut loaded, bitwise),
            Expressions::Cmp(cmp) if excludes(&loaded, cmp) => return false,
            Expressions::Lookup(lookup) => match loaded {
                Loaded::State { .. } | Loaded::Above => return false,
                _ if lookup.iter().any(|a| matches!(a, Lookup::DestinationRegister(Register::Verdict))) => return true,
                _ => {}
            },
            Expressions::Immediate(immediate) => match code_of(immediate) {
                Some(Verdict::Other(NF_ACCEPT) | Verdict::Jump | Verdict::Goto) => return true,
                Some(_) => return false,
                None => {}
            },
            _ => {}
        }
    }
    false
}

fn value_of(nla: &impl Nla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

fn load_meta(meta: &[Meta]) -> Loaded {
    match meta.iter().find_map(|a| if let Meta::Key(key) = a { Some(*key) } else { None }) {
        Some(MetaKey::Iifname) => Loaded::Incoming,
        Some(MetaKey::L4Proto) => Loaded::Above,
        _ => Loaded::Other,
    }
}

fn load_payload(payload: &[Payload], address: Option<IpAddr>) -> Loaded {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let find = |read: fn(&Payload) -> Option<u32>| payload.iter().find_map(read).unwrap_or(0);
    let base = find(|a| if let Payload::Base(n) = a { Some(*n) } else { None });
    let offset = find(|a| if let Payload::Offset(n) = a { Some(*n) } else { None });
    let length = find(|a| if let Payload::Len(n) = a { Some(*n) } else { None });
    let source = address.filter(|address| offset == if address.is_ipv4() { 12 } else { 8 });
    match (base, source) {
        (TRANSPORT, _) => Loaded::Above,
        (NETWORK, Some(address)) => {
            let mut bytes = octets(address);
            bytes.truncate(usize::try_from(length).unwrap_or(0));
            Loaded::Source(bytes)
        }
        _ => Loaded::Other,
    }
}

fn apply_mask(loaded: &mut Loaded, bitwise: &[Bitwise]) {
    let mask = bitwise.iter().find_map(|a| match a {
        Bitwise::Mask(DataAttribute::Value(mask)) => Some(mask),
        _ => None,
    });
    let Some(mask) = mask else { return };
    match loaded {
        // In host byte order.
        Loaded::State { with_new } => *with_new &= mask.iter().any(|byte| byte & NEW != 0),
        Loaded::Source(bytes) => bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask),
        _ => {}
    }
}

/// True if a new connection of the container's can't satisfy the comparison.
fn excludes(loaded: &Loaded, cmp: &[Cmp]) -> bool {
    let equal = cmp.contains(&Cmp::Op(Operator::Equal));
    let value =
        cmp.iter().find_map(|a| if let Cmp::Data(DataAttribute::Value(value)) = a { Some(value) } else { None });
    match (loaded, value) {
        (Loaded::State { with_new }, _) => !with_new,
        (Loaded::Above, _) => true,
        (Loaded::Incoming, Some(value)) => equal && value.starts_with(b"lo\0"),
        (Loaded::Source(bytes), Some(value)) => equal && bytes != value,
        _ => false,
    }
}
