//! What the nftables backend keeps in the tables `filter` of iptables-nft, made of nothing that the iptables tools couldn't
//! have made themselves, so that they list it and can delete it:
//!
//! * one rule in `FORWARD` that accepts what `inet cni_firewall` has marked: Docker makes that chain drop everything that no rule
//!   accepts. It comes behind the jump to the ingress policies, which it would otherwise bypass;
//! * for each bridge with a policy in `inet cni_firewall` the two rules by which the iptables backend and the Go plugin would keep it
//!   apart. They drop between that bridge and those with an iptables policy, which `inet cni_firewall` doesn't know. Nothing leads
//!   there before one of them has made a policy of its own.

use cni_plugin::{Difference, Family};
use netlink_packet_netfilter::nftables::{MetaKey, Operator};
use rustix::io::Errno;

use super::skeleton::MARK;
use crate::intent::Forwarding;
use crate::nftables::ruleset::expression as expr;
use crate::nftables::ruleset::{Chain, Rule, chain, user_data};
use crate::nftables::wire::attribute::{data, expressions, first};
use crate::nftables::wire::{Batch, NftError, Raw, Socket, Table};

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
    fn read(rule: &Raw) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        // NFTA_RULE_HANDLE, NFTA_RULE_USERDATA
        let handle = first(rule.attributes(), 3).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let comment = first(rule.attributes(), 7).and_then(user_data::read_comment);
        let mut listed = Self { handle, comment, ..Self::default() };
        for (name, attributes) in expressions(rule.attributes()) {
            match name {
                // NFTA_CMP_DATA
                "cmp" => listed.names.extend(data(attributes, 3).map(text)),
                // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN
                "immediate" => {
                    let verdict = first(attributes, 2).and_then(|data| first(data, 2));
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

fn table(family: Family) -> Table<'static> {
    Table { family: family.into(), name: "filter" }
}

/// Accepts what is marked, in the families in which something of the intent is to be accepted and iptables-nft has its chain,
/// and keeps the intent's bridge apart.
///
/// `is_new` says that the bridge had no policy before, and `may_come` that a policy of iptables or Go may follow, so that the
/// chains are made for it.
pub(crate) fn add(socket: &Socket, intent: &Forwarding, is_new: bool, may_come: bool) -> Result<(), NftError> {
    let families = Family::among(intent.addresses.iter().copied());
    for ip in &families {
        if chain::exists(socket, table(*ip), FORWARD)? {
            again(|| accept_marked(socket, table(*ip)))?;
        }
    }
    match &intent.ingress {
        Some(ingress) if is_new => {
            let rules = |ip: &Family| [0, 1].map(|stage| (*ip, stage, ingress.bridge.as_str()));
            put_apart(socket, &families.iter().flat_map(rules).collect::<Vec<_>>(), may_come)
        }
        Some(ingress) => keep_apart(socket, &families, &[ingress.bridge.as_str()], may_come),
        None => Ok(()),
    }
}

/// What of [`add`] isn't there.
pub(crate) fn check(socket: &Socket, intent: &Forwarding, may_come: bool) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    let families = Family::among(intent.addresses.iter().copied());
    for ip in &families {
        let table = table(*ip);
        if chain::exists(socket, table, FORWARD)? {
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
    fn read(socket: &Socket, table: Table<'static>) -> Result<Self, NftError> {
        let rules = list(socket, table, FORWARD)?;
        let jump = rules.iter().position(|rule| rule.jumps.iter().any(|chain| chain == STAGES[0]));
        let (early, late) = rules.split_at(jump.unwrap_or(0));
        Ok(Self {
            policies: jump.map(|at| rules[at].handle),
            early: early.iter().filter(|rule| rule.is_ours()).map(|rule| rule.handle).collect(),
            in_place: late.iter().any(Listed::is_ours),
        })
    }

    fn difference(&self, table: Table<'static>) -> Option<Difference> {
        let thing = format!("nftables rule \"meta mark & {MARK:#x} == {MARK:#x} accept\" of chain {table} {FORWARD}");
        match (self.early.is_empty(), self.in_place) {
            (false, _) => Some(Difference::new(thing, format!("behind the jump to {}", STAGES[0]), "in front of it")),
            (true, false) => Some(Difference::missing(thing)),
            (true, true) => None,
        }
    }
}

/// Adds the rule where it is missing, and moves it where it would be asked too early.
fn accept_marked(socket: &Socket, table: Table<'static>) -> Result<(), NftError> {
    let there = Accepts::read(socket, table)?;
    let mut batch = Batch::default();
    there.early.iter().for_each(|handle| batch.delete_rule(table, FORWARD, *handle));
    if !there.in_place {
        let rule: Rule = expr::has_mark(MARK).into_iter().chain([expr::counter(), expr::accept()]).collect();
        batch.insert_rule(table, FORWARD, &rule, COMMENT, there.policies);
    }
    socket.commit(&batch, None)
}

/// Keeps `bridges` apart from those that the iptables backend and the Go plugin keep apart, where iptables-nft has its table, or
/// `may_come`. Idempotent.
pub(crate) fn keep_apart(
    socket: &Socket,
    families: &[Family],
    bridges: &[&str],
    may_come: bool,
) -> Result<(), NftError> {
    put_apart(socket, &lacking(socket, families, bridges)?, may_come)
}

/// What of [`keep_apart`] isn't there.
pub(crate) fn check_apart(
    socket: &Socket,
    families: &[Family],
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
fn lacking<'a>(
    socket: &Socket,
    families: &[Family],
    bridges: &[&'a str],
) -> Result<Vec<(Family, usize, &'a str)>, NftError> {
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
fn put_apart(socket: &Socket, rules: &[(Family, usize, &str)], may_come: bool) -> Result<(), NftError> {
    let mut batch = Batch::default();
    for ip in Family::ALL {
        let of_family = rules.iter().filter(|(of, ..)| *of == ip);
        if of_family.clone().next().is_none() || !make_chains(socket, table(ip), may_come, &mut batch)? {
            continue;
        }
        for (_, stage, bridge) in of_family {
            batch.insert_rule(table(ip), STAGES[*stage], &apart(*stage, bridge), COMMENT, None);
        }
    }
    socket.commit(&batch, None)
}

/// Adds the messages that make the stages, unless they are there; false if there is no place for them.
fn make_chains(socket: &Socket, table: Table<'static>, may_come: bool, batch: &mut Batch) -> Result<bool, NftError> {
    let mut missing = Vec::new();
    for name in STAGES {
        if !chain::exists(socket, table, name)? {
            missing.push(Chain::regular(name, Vec::new()));
        }
    }
    if missing.is_empty() {
        return Ok(true);
    }
    if !exists(socket, table)? {
        if !may_come {
            return Ok(false);
        }
        batch.add_table(table, []);
    }
    missing.iter().for_each(|chain| chain.declare(table, batch));
    Ok(true)
}

/// Adds messages that delete the rules of `bridge`.
pub(crate) fn release(socket: &Socket, bridge: &str, batch: &mut Batch) -> Result<(), NftError> {
    for (table, chain, rule) in of_policies(socket)? {
        if rule.is_of(bridge) {
            batch.delete_rule(table, chain, rule.handle);
        }
    }
    Ok(())
}

/// Deletes the rules of bridges that `is_closed` doesn't know: what is left when the table `cni_firewall` was deleted by hand.
/// It is asked after the rules have been read, for ADD adds them after the policy.
pub(crate) fn retain(
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
            batch.delete_rule(*table, chain, *handle);
        }
        socket.commit(&batch, None)
    })
}

fn of_policies(socket: &Socket) -> Result<Vec<(Table<'static>, &'static str, Listed)>, NftError> {
    let mut rules = Vec::new();
    for ip in Family::ALL {
        for chain in STAGES {
            let of_chain = list(socket, table(ip), chain)?.into_iter().filter(Listed::is_ours);
            rules.extend(of_chain.map(|rule| (table(ip), chain, rule)));
        }
    }
    Ok(rules)
}

/// The rule of a bridge in a stage, as the iptables tools write `-i <bridge> ! -o <bridge> -j <second stage>` and
/// `-o <bridge> -j DROP`.
fn apart(stage: usize, bridge: &str) -> Rule {
    // With its final zero and nothing more, as the iptables tools compare it.
    let is_bridge = || vec![expr::compare(Operator::Equal, [bridge.as_bytes(), &[0]].concat())];
    let meta = |key| vec![expr::meta(key, 0)];
    // iptables' rules count.
    let end = |verdict| vec![expr::counter(), verdict];
    let outgoing = meta(MetaKey::Oifname);
    match stage {
        0 => {
            let elsewhere = expr::negated(is_bridge());
            [meta(MetaKey::Iifname), is_bridge(), outgoing, elsewhere, end(expr::jump(STAGES[1]))].concat()
        }
        _ => [outgoing, is_bridge(), end(expr::drop())].concat(),
    }
}

/// Reads and changes until no other program has deleted in between what was read. If that happens every time, the chain has been
/// deleted.
fn again(attempt: impl Fn() -> Result<(), NftError>) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

fn exists(socket: &Socket, table: Table<'static>) -> Result<bool, NftError> {
    Ok(socket.find("look for a table", table.request_itself())?.is_some())
}

/// The rules of a chain in order; none if there is no such chain.
fn list(socket: &Socket, table: Table<'static>, chain: &str) -> Result<Vec<Listed>, NftError> {
    let what = format!("list the rules of {table} {chain}");
    socket.dump_state(&what, &table.rules_request(Some(chain)), |rules: &mut Vec<Listed>, message| {
        rules.push(Listed::read(&message));
        Ok(())
    })
}
