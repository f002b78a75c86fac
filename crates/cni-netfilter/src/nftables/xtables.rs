//! The tables that the iptables-nft tools fill, without the tools: `ip nat`, `ip6 filter` and so on are nf_tables objects.
//!
//! A rule is read as the arguments that `iptables-save` would print for it. The tools give up on a whole table if one rule
//! in it isn't one of the tools; here such a rule gets an argument that equals no other ([`OPAQUE`]), and the others are read.
//! The encoding is that of iptables 1.8 (`iptables/nft*.c`): what it has no native expression for is a `match` or a `target`
//! with the structure of `include/uapi/linux/netfilter/xt_*.h` in it.

use std::net::SocketAddr;

use cni_plugin::{Family, Protocol};
use rustix::io::Errno;

use super::Nftables;
use super::ruleset::{chain, data, rule, user_data};
use super::wire::attribute::{self, c_string, first, text};
use super::wire::{Batch, NftError, Table, TableFamily};

/// Stands for what can't be read.
pub(crate) const OPAQUE: &str = "--opaque";

/// The expressions that iptables-nft knows (`nft_is_expr_compatible` in iptables/nft.c), but for `limit` and `log`, of which
/// it knows some.
const KNOWN: [&str; 10] =
    ["match", "target", "payload", "meta", "cmp", "bitwise", "counter", "immediate", "lookup", "range"];
/// Base chains of iptables-nft, whatever their table.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// The beginnings of names of chains that only the iptables tools write, and of which a node has thousands.
const OF_TOOLS: [&str; 2] = ["CNI-", "KUBE-"];
/// Above this many other chains, one list of all rules is quicker than one for each chain.
const SINGLY: usize = 32;

/// A rule of iptables-nft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XtRule {
    pub(crate) chain: String,
    pub(crate) handle: u64,
    /// As `iptables-save` prints them, behind the chain.
    pub(crate) args: Vec<String>,
}

/// A table of iptables-nft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XtTable {
    pub(crate) chains: Vec<String>,
    pub(crate) rules: Vec<XtRule>,
}

/// What to delete from a table of iptables-nft.
#[derive(Debug, Default)]
pub(crate) struct XtRemoval {
    /// Chain and handle.
    pub(crate) rules: Vec<(String, u64)>,
    pub(crate) flushed: Vec<String>,
    pub(crate) chains: Vec<String>,
}

impl Nftables {
    /// True if there is such a chain, of any program, `iptables-nft` included. Constant time; a table or module that does not
    /// exist has no chains.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that.
    pub fn chain_exists(&self, family: TableFamily, table: &str, name: &str) -> Result<bool, NftError> {
        match chain::exists(&self.socket, Table { family, name: table }, name) {
            // nfnetlink's answer if there is no nf_tables.
            Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => Ok(false),
            outcome => outcome,
        }
    }

    /// True if there is such a chain and anything in it.
    pub(crate) fn has_rules(&self, family: TableFamily, table: &str, chain: &str) -> Result<bool, NftError> {
        Ok(!rule::list(&self.socket, Table { family, name: table }, Some(chain))?.is_empty())
    }

    /// The names of the chains of either family that begin with `prefix` in a table of iptables-nft. Lists all chains.
    pub(crate) fn chains_of_iptables(&self, table: &str, prefix: &str) -> Result<Vec<String>, NftError> {
        let of =
            |family: Family| chain::starting_with(&self.socket, Table { family: family.into(), name: table }, prefix);
        Ok([of(Family::V4)?, of(Family::V6)?].concat())
    }

    /// Reads a table of iptables-nft; one that does not exist is empty.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub(crate) fn read_iptables(&self, family: TableFamily, table: &str) -> Result<XtTable, NftError> {
        let table = Table { family, name: table };
        let chains = self.chains_of(table)?.into_iter().map(|chain| chain.name).collect();
        let what = format!("list the rules of {}", table.name);
        let rules = self.socket.dump_state(&what, &table.rules_request(None), |rules: &mut Vec<XtRule>, message| {
            rules.extend(read_rule(family, message.attributes()));
            Ok(())
        })?;
        Ok(XtTable { chains, rules })
    }

    /// Deletes rules and chains of a table of iptables-nft, in one transaction.
    ///
    /// # Errors
    /// `ENOENT` or `EBUSY` if another program has changed them since they were read.
    pub(crate) fn remove_of_iptables(
        &self,
        family: TableFamily,
        table: &str,
        removal: &XtRemoval,
    ) -> Result<(), NftError> {
        let table = Table { family, name: table };
        let mut batch = Batch::default();
        removal.rules.iter().for_each(|(chain, handle)| batch.delete_rule(table, chain, *handle));
        removal.flushed.iter().for_each(|chain| batch.flush_chain(table, chain));
        removal.chains.iter().for_each(|chain| batch.delete_chain(table, chain));
        self.socket.commit(&batch, None)
    }

    /// True if a table of iptables-nft has something that the tools in use today can't show. Newer ones may: ask them.
    ///
    /// Chains that only iptables writes aren't looked into.
    ///
    /// # Errors
    /// If the kernel can't be asked.
    pub(crate) fn has_foreign_rules(&self, family: TableFamily, table: &str) -> Result<bool, NftError> {
        let table = Table { family, name: table };
        let chains = self.chains_of(table)?;
        if chains.is_empty() {
            return Ok(false);
        }
        if chains.iter().any(|chain| chain.is_base && !HOOKS.contains(&chain.name.as_str())) {
            return Ok(true);
        }
        let is_toolless = |chain: &&XtChain| !OF_TOOLS.iter().any(|prefix| chain.name.starts_with(prefix));
        let others: Vec<&str> = chains.iter().filter(is_toolless).map(|chain| chain.name.as_str()).collect();
        let foreign = |chain: Option<&str>| {
            let what = format!("list the rules of {}", table.name);
            let mut found = false;
            self.socket.glance(&what, &table.rules_request(chain), |message| {
                found |= attribute::expressions(message.attributes()).any(|(name, _)| !is_known(name));
                Ok(())
            })?;
            Ok(found)
        };
        if others.len() > SINGLY {
            return foreign(None);
        }
        for chain in others {
            if foreign(Some(chain))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn chains_of(&self, table: Table<'_>) -> Result<Vec<XtChain>, NftError> {
        let what = format!("list the chains of {}", table.name);
        self.socket.dump_state(&what, &table.chains_request(), |chains: &mut Vec<XtChain>, message| {
            // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK
            let attributes = message.attributes();
            if text(attributes, 1).as_deref() == Some(table.name)
                && let Some(name) = text(attributes, 3)
            {
                chains.push(XtChain { name, is_base: first(attributes, 4).is_some() });
            }
            Ok(())
        })
    }
}

struct XtChain {
    name: String,
    is_base: bool,
}

fn is_known(expression: &str) -> bool {
    KNOWN.contains(&expression) || ["limit", "log"].contains(&expression)
}

fn read_rule(family: TableFamily, rule: &[u8]) -> Option<XtRule> {
    // NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA
    let handle = u64::from_be_bytes(first(rule, 3)?.try_into().ok()?);
    let mut line = Line { is_v6: matches!(family, TableFamily::Ip6), ..Line::default() };
    for (name, attributes) in attribute::expressions(rule) {
        if line.take(name, attributes).is_none() {
            line.matches.extend(["-m".to_owned(), name.to_owned(), OPAQUE.to_owned()]);
        }
    }
    if let Some(comment) = first(rule, 7).and_then(user_data::read_comment) {
        line.add_match("comment", ["--comment".to_owned(), comment]);
    }
    Some(XtRule { chain: text(rule, 2)?, handle, args: line.args() })
}

/// What was loaded last, to be compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    #[default]
    Other,
    Source,
    Destination,
    Incoming,
    Outgoing,
    Protocol,
    Mark,
    SourcePort,
    DestinationPort,
}

/// The arguments of a rule, which the tools print in another order than that of the expressions.
#[derive(Debug, Default)]
struct Line {
    is_v6: bool,
    loaded: Loaded,
    mask: Option<Vec<u8>>,
    source: Vec<String>,
    destination: Vec<String>,
    incoming: Vec<String>,
    outgoing: Vec<String>,
    protocol: Vec<String>,
    matches: Vec<String>,
    target: Vec<String>,
}

impl Line {
    fn args(self) -> Vec<String> {
        let head = [self.source, self.destination, self.incoming, self.outgoing, self.protocol];
        head.into_iter().flatten().chain(self.matches).chain(self.target).collect()
    }

    fn add_match<const N: usize>(&mut self, name: &str, args: [String; N]) {
        self.matches.extend(["-m".to_owned(), name.to_owned()].into_iter().chain(args));
    }

    /// `None` if the expression can't be read.
    fn take(&mut self, name: &str, attributes: &[u8]) -> Option<()> {
        match name {
            "counter" => {}
            "payload" => self.load_payload(attributes)?,
            "meta" => self.load_meta(attributes)?,
            // NFTA_BITWISE_MASK
            "bitwise" => self.mask = Some(attribute::data(attributes, 4)?.to_vec()),
            "cmp" => self.compare(attributes)?,
            "range" => self.compare_range(attributes)?,
            "immediate" => self.verdict(attributes)?,
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO; NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO
            "match" => self.read_match(first(attributes, 1).map(c_string)?, first(attributes, 3)?)?,
            "target" => {
                let revision = attribute::number(attributes, 2)?;
                self.read_target(first(attributes, 1).map(c_string)?, revision, first(attributes, 3)?)?;
            }
            _ => return None,
        }
        Some(())
    }

    fn load_payload(&mut self, attributes: &[u8]) -> Option<()> {
        /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN
        let [base, offset, length] = [2, 3, 4].map(|kind| attribute::number(attributes, kind));
        self.mask = None;
        self.loaded = match (base?, offset?, length?, self.is_v6) {
            (NETWORK, 12, 1..=4, false) | (NETWORK, 8, 1..=16, true) => Loaded::Source,
            (NETWORK, 16, 1..=4, false) | (NETWORK, 24, 1..=16, true) => Loaded::Destination,
            (NETWORK, 9, 1, false) => Loaded::Protocol,
            (TRANSPORT, 0, 2, _) => Loaded::SourcePort,
            (TRANSPORT, 2, 2, _) => Loaded::DestinationPort,
            _ => Loaded::Other,
        };
        (self.loaded != Loaded::Other).then_some(())
    }

    fn load_meta(&mut self, attributes: &[u8]) -> Option<()> {
        self.mask = None;
        // NFTA_META_KEY: NFT_META_MARK, NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_L4PROTO
        self.loaded = match attribute::number(attributes, 2)? {
            3 => Loaded::Mark,
            6 => Loaded::Incoming,
            7 => Loaded::Outgoing,
            16 => Loaded::Protocol,
            _ => Loaded::Other,
        };
        (self.loaded != Loaded::Other).then_some(())
    }

    fn compare(&mut self, attributes: &[u8]) -> Option<()> {
        // NFTA_CMP_OP, NFTA_CMP_DATA
        let negated = match attribute::number(attributes, 2)? {
            0 => None,
            1 => Some("!".to_owned()),
            _ => return None,
        };
        let value = attribute::data(attributes, 3)?;
        let (option, text) = match self.loaded {
            Loaded::Source => ("-s", self.network(value)?),
            Loaded::Destination => ("-d", self.network(value)?),
            Loaded::Incoming => ("-i", interface(value)?),
            Loaded::Outgoing => ("-o", interface(value)?),
            Loaded::Protocol => ("-p", protocol(*value.first()?)),
            Loaded::Mark => ("--mark", self.mark(value)?),
            Loaded::SourcePort => ("--sport", port(value)?.to_string()),
            Loaded::DestinationPort => ("--dport", port(value)?.to_string()),
            Loaded::Other => return None,
        };
        self.place(option, negated, text);
        Some(())
    }

    fn compare_range(&mut self, attributes: &[u8]) -> Option<()> {
        // NFTA_RANGE_OP, NFTA_RANGE_FROM_DATA, NFTA_RANGE_TO_DATA
        let negated = (attribute::number(attributes, 2)? != 0).then(|| "!".to_owned());
        let ports = format!("{}:{}", port(attribute::data(attributes, 3)?)?, port(attribute::data(attributes, 4)?)?);
        match self.loaded {
            Loaded::SourcePort => self.place("--sport", negated, ports),
            Loaded::DestinationPort => self.place("--dport", negated, ports),
            _ => return None,
        }
        Some(())
    }

    fn place(&mut self, option: &str, negated: Option<String>, value: String) {
        let module = match option {
            "--mark" => Some("mark".to_owned()),
            "--sport" | "--dport" => self.protocol.last().cloned(),
            _ => None,
        };
        let slot = match option {
            "-s" => &mut self.source,
            "-d" => &mut self.destination,
            "-i" => &mut self.incoming,
            "-o" => &mut self.outgoing,
            "-p" => &mut self.protocol,
            _ => &mut self.matches,
        };
        slot.extend(module.into_iter().flat_map(|name| ["-m".to_owned(), name]));
        slot.extend(negated);
        slot.extend([option.to_owned(), value]);
    }

    /// A prefix of whole bytes is compared without the others; another one is masked.
    fn network(&self, value: &[u8]) -> Option<String> {
        let mask = self.mask.clone().unwrap_or_else(|| vec![u8::MAX; value.len()]);
        let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
        let mut octets = value.to_vec();
        octets.resize(if self.is_v6 { 16 } else { 4 }, 0);
        let address = data::read_address(&octets)?;
        Some(format!("{address}/{ones}"))
    }

    fn mark(&self, value: &[u8]) -> Option<String> {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
        let value = number(value)?;
        match &self.mask {
            Some(mask) => Some(format!("{value:#x}/{:#x}", number(mask)?)),
            None => Some(format!("{value:#x}")),
        }
    }

    fn verdict(&mut self, attributes: &[u8]) -> Option<()> {
        // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
        let verdict = first(first(attributes, 2)?, 2)?;
        let chain = || text(verdict, 2);
        let (option, target) = match attribute::number(verdict, 1)?.cast_signed() {
            0 => ("-j", "DROP".to_owned()),
            1 => ("-j", "ACCEPT".to_owned()),
            -3 => ("-j", chain()?),
            -4 => ("-g", chain()?),
            -5 => ("-j", "RETURN".to_owned()),
            _ => return None,
        };
        self.target = vec![option.to_owned(), target];
        Some(())
    }

    fn read_match(&mut self, name: &str, info: &[u8]) -> Option<()> {
        match name {
            "comment" => self.add_match(name, ["--comment".to_owned(), c_string(info).to_owned()]),
            // struct xt_addrtype_info_v1: source and destination types (bit 2: RTN_LOCAL), flags
            "addrtype" if info.get(..8)? == [[0u8; 2], 4u16.to_ne_bytes(), [0; 2], [0; 2]].concat() => {
                self.add_match(name, ["--dst-type".to_owned(), "LOCAL".to_owned()]);
            }
            "multiport" => self.add_match(name, ["--dports".to_owned(), multiport(info)?]),
            "conntrack" => self.add_conntrack(info)?,
            // struct xt_tcp, xt_udp, xt_sctp: source ports, destination ports, and what we never ask for
            "tcp" | "udp" | "sctp" if info.get(..4)? == [0, 0, 255, 255] => {
                let [from, to] = [4, 6].map(|at| number(info, at));
                let ports = if from == to { from?.to_string() } else { format!("{}:{}", from?, to?) };
                self.add_match(name, ["--dport".to_owned(), ports]);
            }
            _ => return None,
        }
        Some(())
    }

    /// `struct xt_conntrack_mtinfo3`: after addresses and ports, flags, inverted flags and the states.
    fn add_conntrack(&mut self, info: &[u8]) -> Option<()> {
        /// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_DIRECTION`; the bits of `RELATED` and `ESTABLISHED`, and of `DNAT`.
        const STATE: u16 = 1;
        const DIRECTION: u16 = 1 << 12;
        const REPLIES: u16 = 6;
        const TRANSLATED: u16 = 1 << 7;
        let [flags, inverted, states] = [146, 148, 150].map(|at| number(info, at));
        let args: &[&str] = match (flags?, inverted?, states?) {
            (STATE, 0, REPLIES) => &["--ctstate", "RELATED,ESTABLISHED"],
            (flags, 0, TRANSLATED) if flags == STATE | DIRECTION => &["--ctstate", "DNAT", "--ctdir", "ORIGINAL"],
            _ => return None,
        };
        self.matches.extend(["-m", "conntrack"].iter().chain(args).map(|&arg| arg.to_owned()));
        Some(())
    }

    fn read_target(&mut self, name: &str, revision: u32, info: &[u8]) -> Option<()> {
        self.target = vec!["-j".to_owned(), name.to_owned()];
        match name {
            "MASQUERADE" => {}
            "MARK" => {
                let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
                self.target.extend(["--set-xmark".to_owned(), format!("{:#x}/{:#x}", word(0)?, word(4)?)]);
            }
            "DNAT" => self.target.extend(["--to-destination".to_owned(), destination(self.is_v6, revision, info)?]),
            _ => self.target.push(OPAQUE.to_owned()),
        }
        Some(())
    }
}

fn interface(value: &[u8]) -> Option<String> {
    let is_whole = value.contains(&0) || value.len() == 16;
    let name = c_string(value);
    (!name.is_empty()).then(|| if is_whole { name.to_owned() } else { format!("{name}+") })
}

fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |protocol| protocol.name().to_owned())
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

/// A 16-bit number in the machine's order.
fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// `struct xt_multiport_v1`: flags, count, 15 ports, 15 marks of where a range begins, whether inverted.
fn multiport(info: &[u8]) -> Option<String> {
    /// `XT_MULTIPORT_DESTINATION`.
    const DESTINATION: u8 = 1;
    let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
    if flags != DESTINATION || count > 15 || *info.get(47)? != 0 {
        return None;
    }
    let mut list = String::new();
    let mut is_end = false;
    for n in 0..count {
        if n > 0 {
            list.push(if is_end { ':' } else { ',' });
        }
        is_end = *info.get(32 + n)? != 0;
        list.push_str(&number(info, 2 + 2 * n)?.to_string());
    }
    Some(list)
}

/// `struct nf_nat_range2` (revision 2) or `struct nf_nat_range` (revision 1, IPv6's only one before): flags, first and last
/// address, first and last port, and the port from which they are shifted; or, of IPv4, `nf_nat_ipv4_multi_range_compat`.
fn destination(is_v6: bool, revision: u32, info: &[u8]) -> Option<String> {
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`, `NF_NAT_RANGE_PROTO_OFFSET`.
    const PORTS: u32 = 1 << 1;
    const SHIFTED: u32 = 1 << 5;
    let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let at = |at: usize| port(info.get(at..at + 2)?);
    let (flags, address, ports) = match (is_v6, revision) {
        (false, 0) => (word(4)?, data::read_address(info.get(8..12)?)?, 16),
        (false, _) => (word(0)?, data::read_address(info.get(4..8)?)?, 36),
        (true, _) => (word(0)?, data::read_address(info.get(4..20)?)?, 36),
    };
    if flags & PORTS == 0 {
        return Some(address.to_string());
    }
    let (first, last) = (at(ports)?, at(ports + 2)?);
    let mut text = SocketAddr::new(address, first).to_string();
    if first != last {
        text.push_str(&format!("-{last}"));
    }
    if flags & SHIFTED != 0 {
        text.push_str(&format!("/{}", at(ports + 4)?));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_of_xtables_are_read() {
        let mut info = vec![1u8, 3];
        [80u16, 8000, 8100].iter().for_each(|port| info.extend(port.to_ne_bytes()));
        info.resize(32, 0);
        info.extend([0, 1, 0]);
        info.resize(48, 0);
        assert_eq!(multiport(&info).as_deref(), Some("80,8000:8100"));
        info[47] = 1;
        assert_eq!(multiport(&info), None, "an inverted list is never written by this plugin");
        assert_eq!(multiport(&info[..20]), None);
        assert_eq!(interface(b"cni0\0\0").as_deref(), Some("cni0"));
        assert_eq!(interface(b"cni").as_deref(), Some("cni+"));
        assert_eq!(destination(false, 2, &[0; 6]), None, "too short");
    }

    #[test]
    fn a_prefix_is_compared_by_bytes_or_masked() {
        let mut line = Line::default();
        assert_eq!(line.network(&[10, 1, 2]).as_deref(), Some("10.1.2.0/24"));
        line.mask = Some(vec![240, 0, 0, 0]);
        assert_eq!(line.network(&[224, 0, 0, 0]).as_deref(), Some("224.0.0.0/4"));
        let line = Line { is_v6: true, ..Line::default() };
        assert_eq!(line.network(&[0xff]).as_deref(), Some("ff00::/8"));
    }
}
