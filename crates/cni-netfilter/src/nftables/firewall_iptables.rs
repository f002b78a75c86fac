//! What the nftables backend keeps in the tables `filter` of iptables-nft, made of nothing that the iptables tools couldn't
//! have made themselves, so that they list it and can delete it:
//!
//! * one rule in `FORWARD` that accepts what our own chain has marked: in that chain Docker drops everything that nobody
//!   accepts. It comes behind the jump to the ingress policies, which it would otherwise bypass;
//! * for each bridge with a policy of ours the two rules by which the iptables backend and the Go plugin would keep it apart.
//!   They drop between that bridge and those with a policy of theirs, which `inet cni_firewall` doesn't know. Nothing leads
//!   there before one of them has made a policy of its own.

use std::net::IpAddr;

use cni_plugin::Difference;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Expressions, MetaKey, NfTablesMessage, Operator, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use rustix::io::Errno;

use super::answer::Raw;
use super::batch::Batch;
use super::element::nested;
use super::error::{NftError, absent};
use super::expr::{self, Ip};
use super::firewall_frame::{MARK, accept, is_marked, jump};
use super::frame::{Chain, Family, TableId};
use super::transport::Socket;
use super::{chains, raw};
use crate::Forwarding;

const FORWARD: &str = "FORWARD";
/// The chains of the ingress policies, as the Go plugin calls them.
const STAGES: [&str; 2] = ["CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"];
/// The comment by which the rules are known.
pub(crate) const COMMENT: &str = "CNI firewall plugin rules (nftables)";
/// How often a change is tried while others change the same chains.
const ATTEMPTS: u32 = 8;

/// A rule as the kernel lists it, as far as it matters here.
#[derive(Default)]
struct Listed {
    handle: u64,
    comment: Option<String>,
    /// The interfaces' names that it compares with.
    names: Vec<String>,
    /// The chains that it jumps to.
    jumps: Vec<String>,
}

impl Listed {
    /// Read by hand: with a policy for each of a thousand containers' links the decoder would take a hundred milliseconds.
    fn read(rule: &Raw) -> Self {
        let first = |attributes, kind| nested(attributes, kind).next();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        // NFTA_RULE_HANDLE, NFTA_RULE_USERDATA
        let handle = first(rule.attributes(), 3).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let comment = first(rule.attributes(), 7).and_then(raw::read_comment);
        let mut listed = Self { handle, comment, ..Self::default() };
        // NFTA_RULE_EXPRESSIONS, NFTA_LIST_ELEM
        for expression in nested(rule.attributes(), 4).flat_map(|list| nested(list, 1)) {
            // NFTA_EXPR_NAME, NFTA_EXPR_DATA
            let (Some(name), Some(data)) = (first(expression, 1), first(expression, 2)) else { continue };
            match text(name).as_str() {
                // NFTA_CMP_DATA, NFTA_DATA_VALUE
                "cmp" => listed.names.extend(first(data, 3).and_then(|data| first(data, 1)).map(text)),
                // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN
                "immediate" => {
                    let verdict = first(data, 2).and_then(|data| first(data, 2));
                    listed.jumps.extend(verdict.and_then(|verdict| first(verdict, 2)).map(text));
                }
                _ => {}
            }
        }
        listed
    }

    fn is_ours(&self) -> bool {
        self.comment.as_deref() == Some(COMMENT)
    }

    fn is_of(&self, bridge: &str) -> bool {
        self.is_ours() && self.names.iter().any(|name| name == bridge)
    }
}

fn table(ip: Ip) -> TableId {
    TableId { family: Family::Only(ip), name: "filter" }
}

pub(super) fn families(addresses: &[IpAddr]) -> Vec<Ip> {
    let has = |ip: &Ip| addresses.iter().any(|address| Ip::of(*address) == *ip);
    [Ip::V4, Ip::V6].into_iter().filter(has).collect()
}

/// Accepts what is marked, in the families in which something of the intent is to be accepted and iptables-nft has its chain,
/// and keeps the intent's bridge apart.
///
/// `is_new` says that the bridge had no policy before, and `may_come` that a policy of iptables or Go may follow, so that the
/// chains are made for it.
pub(super) fn add(socket: &Socket, intent: &Forwarding, is_new: bool, may_come: bool) -> Result<(), NftError> {
    let families = families(&intent.addresses);
    for ip in &families {
        if chains::uses(socket, table(*ip), FORWARD)?.is_some() {
            again(|| accept_marked(socket, table(*ip)))?;
        }
    }
    match &intent.ingress {
        Some(ingress) if is_new => {
            let rules = |ip: &Ip| [0, 1].map(|stage| (*ip, stage, ingress.bridge.as_str()));
            put_apart(socket, &families.iter().flat_map(rules).collect::<Vec<_>>(), may_come)
        }
        Some(ingress) => keep_apart(socket, &families, &[ingress.bridge.as_str()], may_come),
        None => Ok(()),
    }
}

/// What of [`add`] isn't there.
pub(super) fn check(socket: &Socket, intent: &Forwarding, may_come: bool) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    let families = families(&intent.addresses);
    for ip in &families {
        let table = table(*ip);
        if chains::uses(socket, table, FORWARD)?.is_some() {
            differences.extend(Accepts::read(socket, table)?.difference(table));
        }
    }
    if let Some(ingress) = &intent.ingress {
        differences.extend(check_apart(socket, &families, &[ingress.bridge.as_str()], may_come)?);
    }
    Ok(differences)
}

/// The rules of `FORWARD` that matter here, by handle.
struct Accepts {
    /// The first jump to the ingress policies.
    policies: Option<u64>,
    /// Rules that accept what is marked before the policies are asked.
    early: Vec<u64>,
    in_place: bool,
}

impl Accepts {
    fn read(socket: &Socket, table: TableId) -> Result<Self, NftError> {
        let rules = list(socket, table, FORWARD)?;
        let jump = rules.iter().position(|rule| rule.jumps.iter().any(|chain| chain == STAGES[0]));
        let (early, late) = rules.split_at(jump.unwrap_or(0));
        Ok(Self {
            policies: jump.map(|at| rules[at].handle),
            early: early.iter().filter(|rule| rule.is_ours()).map(|rule| rule.handle).collect(),
            in_place: late.iter().any(Listed::is_ours),
        })
    }

    fn difference(&self, table: TableId) -> Option<Difference> {
        let thing = format!("nftables rule \"meta mark & {MARK:#x} == {MARK:#x} accept\" of chain {table} {FORWARD}");
        match (self.early.is_empty(), self.in_place) {
            (false, _) => Some(Difference::new(thing, format!("behind the jump to {}", STAGES[0]), "in front of it")),
            (true, false) => Some(Difference::missing(thing)),
            (true, true) => None,
        }
    }
}

/// Adds the rule where it is missing, and moves it where it would be asked too early.
fn accept_marked(socket: &Socket, table: TableId) -> Result<(), NftError> {
    let there = Accepts::read(socket, table)?;
    let mut batch = Batch::default();
    there.early.iter().for_each(|handle| delete(table, FORWARD, *handle, &mut batch));
    if !there.in_place {
        let expressions = is_marked().into_iter().chain([counter(), accept()]);
        insert(table, FORWARD, expressions, there.policies, &mut batch);
    }
    socket.commit(&batch, None)
}

/// Keeps `bridges` apart from those that the iptables backend and the Go plugin keep apart, where iptables-nft has its table, or
/// `may_come`. Idempotent.
pub(super) fn keep_apart(socket: &Socket, families: &[Ip], bridges: &[&str], may_come: bool) -> Result<(), NftError> {
    put_apart(socket, &lacking(socket, families, bridges)?, may_come)
}

/// What of [`keep_apart`] isn't there.
pub(super) fn check_apart(
    socket: &Socket,
    families: &[Ip],
    bridges: &[&str],
    may_come: bool,
) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    for (ip, stage, bridge) in lacking(socket, families, bridges)? {
        if may_come || exists(socket, table(ip))? {
            let thing = format!("nftables rule for {bridge} of chain {} {}", table(ip), STAGES[stage]);
            differences.push(Difference::missing(thing));
        }
    }
    Ok(differences)
}

/// The families, stages and bridges whose rules are missing.
fn lacking<'a>(socket: &Socket, families: &[Ip], bridges: &[&'a str]) -> Result<Vec<(Ip, usize, &'a str)>, NftError> {
    let mut lacking = Vec::new();
    for ip in families {
        for (stage, chain) in STAGES.into_iter().enumerate() {
            let rules = list(socket, table(*ip), chain)?;
            let is_missing = |bridge: &&str| !rules.iter().any(|rule| rule.is_of(bridge));
            lacking.extend(bridges.iter().copied().filter(is_missing).map(|bridge| (*ip, stage, bridge)));
        }
    }
    Ok(lacking)
}

/// Adds these rules in one transaction, in the families in which the table is there or `may_come`.
fn put_apart(socket: &Socket, rules: &[(Ip, usize, &str)], may_come: bool) -> Result<(), NftError> {
    let mut batch = Batch::default();
    for ip in [Ip::V4, Ip::V6] {
        let of_family = rules.iter().filter(|(of, ..)| *of == ip);
        if of_family.clone().next().is_none() || !make_chains(socket, table(ip), may_come, &mut batch)? {
            continue;
        }
        for (_, stage, bridge) in of_family {
            insert(table(ip), STAGES[*stage], apart(*stage, bridge), None, &mut batch);
        }
    }
    socket.commit(&batch, None)
}

/// Adds the messages that make the stages, unless they are there; false if there is no place for them.
fn make_chains(socket: &Socket, table: TableId, may_come: bool, batch: &mut Batch) -> Result<bool, NftError> {
    let mut missing = Vec::new();
    for name in STAGES {
        if chains::uses(socket, table, name)?.is_none() {
            missing.push(Chain { name: name.to_owned(), base: None, rules: Vec::new() });
        }
    }
    if missing.is_empty() {
        return Ok(true);
    }
    if !exists(socket, table)? {
        if !may_come {
            return Ok(false);
        }
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        batch.push(format!("add table {table}"), table.family.number(), NLM_F_CREATE, message);
    }
    missing.iter().for_each(|chain| chain.declare(table, batch));
    Ok(true)
}

/// Adds messages that delete the rules of `bridge`.
pub(super) fn release(socket: &Socket, bridge: &str, batch: &mut Batch) -> Result<(), NftError> {
    for (table, chain, rule) in of_policies(socket)? {
        if rule.is_of(bridge) {
            delete(table, chain, rule.handle, batch);
        }
    }
    Ok(())
}

/// Deletes the rules of bridges that `is_closed` doesn't know: what is left when the table `cni_firewall` was deleted by hand.
/// It is asked after the rules have been read, for ADD adds them after the policy.
pub(super) fn retain(
    socket: &Socket,
    is_closed: impl Fn(&[String]) -> Result<Vec<bool>, NftError>,
) -> Result<(), NftError> {
    again(|| {
        let rules: Vec<_> = of_policies(socket)?
            .into_iter()
            .filter_map(|(table, chain, rule)| Some((table, chain, rule.handle, rule.names.into_iter().next()?)))
            .collect();
        let names: Vec<String> = rules.iter().map(|(.., bridge)| bridge.clone()).collect();
        let closed = is_closed(&names)?;
        let mut batch = Batch::default();
        for ((table, chain, handle, _), _) in rules.iter().zip(closed).filter(|(_, closed)| !closed) {
            delete(*table, chain, *handle, &mut batch);
        }
        socket.commit(&batch, None)
    })
}

fn of_policies(socket: &Socket) -> Result<Vec<(TableId, &'static str, Listed)>, NftError> {
    let mut rules = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        for chain in STAGES {
            let of_chain = list(socket, table(ip), chain)?.into_iter().filter(Listed::is_ours);
            rules.extend(of_chain.map(|rule| (table(ip), chain, rule)));
        }
    }
    Ok(rules)
}

/// The rule of a bridge in a stage, as the iptables tools write `-i <bridge> ! -o <bridge> -j <second stage>` and
/// `-o <bridge> -j DROP`.
fn apart(stage: usize, bridge: &str) -> Vec<Expressions> {
    let outgoing = expr::load_meta(MetaKey::Oifname, 0);
    match stage {
        0 => {
            let elsewhere = expr::unlike(vec![interface_is(bridge)]);
            let head = [expr::incoming_interface(), interface_is(bridge), outgoing];
            head.into_iter().chain(elsewhere).chain([counter(), jump(STAGES[1])]).collect()
        }
        _ => vec![outgoing, interface_is(bridge), counter(), expr::drop()],
    }
}

/// With its final zero and nothing more, as the iptables tools compare it.
fn interface_is(name: &str) -> Expressions {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    expr::compare(Operator::Equal, bytes)
}

/// iptables' rules count.
fn counter() -> Expressions {
    let zero = |kind| DefaultNla::new(kind, 0u64.to_be_bytes().to_vec());
    // NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS
    Expressions::Other { expression_type: "counter".to_owned(), attributes: vec![zero(1), zero(2)] }
}

/// Puts a rule behind the one with handle `behind`, or at the head of its chain.
fn insert(
    table: TableId,
    chain: &str,
    expressions: impl IntoIterator<Item = Expressions>,
    behind: Option<u64>,
    batch: &mut Batch,
) {
    let mut attributes = vec![
        RuleAttribute::Table(table.name.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        RuleAttribute::UserData(raw::comment(COMMENT)),
    ];
    attributes.extend(behind.map(RuleAttribute::Position));
    // Without NLM_F_APPEND it comes before the position, or first.
    let flags = NLM_F_CREATE | if behind.is_some() { NLM_F_APPEND } else { 0 };
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    batch.push(format!("insert a rule into {table} {chain}"), table.family.number(), flags, message);
}

fn delete(table: TableId, chain: &str, handle: u64, batch: &mut Batch) {
    let attributes = vec![
        RuleAttribute::Table(table.name.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
    batch.push(format!("delete a rule of {table} {chain}"), table.family.number(), 0, message);
}

/// Reads and changes until nobody has deleted in between what was read. If that happens time and again, the others have
/// deleted the chain.
fn again(attempt: impl Fn() -> Result<(), NftError>) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

fn exists(socket: &Socket, table: TableId) -> Result<bool, NftError> {
    let attributes = vec![TableAttribute::Name(table.name.to_owned())];
    let question = table.question(NfTablesMessage::GetTable(TableMessage { attributes }));
    socket.ask("look for a table", vec![question])?.pop().map_or(Ok(false), |answer| Ok(!absent(answer)?))
}

/// The rules of a chain in order; none if there is no such chain.
fn list(socket: &Socket, table: TableId, chain: &str) -> Result<Vec<Listed>, NftError> {
    let attributes = vec![RuleAttribute::Table(table.name.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    let question = table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let what = format!("list the rules of {table} {chain}");
    socket.dump_state(&what, &question, |rules: &mut Vec<Listed>, message| {
        rules.push(Listed::read(&message));
        Ok(())
    })
}
