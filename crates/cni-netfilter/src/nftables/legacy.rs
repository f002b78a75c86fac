//! What the Go plugins leave in their own nftables tables: found by the comments of their rules, and removed. Here that of
//! their masquerading, and what [`super::legacy_ports`] shares with it.

use std::collections::BTreeSet;

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{NfTablesMessage, Operator, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::batch::Batch;
use super::check::{self, RuleExpressions};
use super::error::NftError;
use super::expr;
use super::frame::{Family, TableId};
use super::raw;
use super::transport::Socket;
use crate::Masquerade;

/// Of their bridge and ptp; the rules are in `masq_checks`, their comment begins with the owner's key.
const MASQUERADE: TableId = TableId { family: Family::Inet, name: "cni_plugins_masquerade" };
/// The chain of these rules.
const CHECKS: &str = "masq_checks";
/// How often a deletion is tried while others delete the same rules.
const ATTEMPTS: u32 = 5;

/// Removes the rules of the Go plugins' masquerading whose comment satisfies `is_mine`. Idempotent.
pub(super) fn remove_masquerade(socket: &Socket, is_mine: impl Fn(&str) -> bool) -> Result<(), NftError> {
    remove(socket, MASQUERADE, &[CHECKS], is_mine)
}

/// Removes the rules of these chains whose comment satisfies `is_mine`. Idempotent.
pub(super) fn remove(
    socket: &Socket,
    table: TableId,
    chains: &[&str],
    is_mine: impl Fn(&str) -> bool,
) -> Result<(), NftError> {
    remove_rules(socket, table, || {
        let mut found = Vec::new();
        for_each(socket, table, chains, |rule| {
            if is_mine(&rule.comment) {
                found.push((rule.chain, rule.handle));
            }
        })?;
        Ok(found)
    })
}

/// Removes the rules that `find` finds, by chain and handle, and asks it again if others delete at the same time.
pub(super) fn remove_rules(
    socket: &Socket,
    table: TableId,
    find: impl Fn() -> Result<Vec<(String, u64)>, NftError>,
) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::default();
        // A dump that was repeated lists a rule again.
        for (chain, handle) in BTreeSet::from_iter(find()?) {
            let what = format!("delete rule {handle} of {table} {chain}");
            let attributes = vec![
                RuleAttribute::Table(table.name.to_owned()),
                RuleAttribute::Chain(chain),
                RuleAttribute::Handle(handle),
            ];
            let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
            batch.push(what, table.family.number(), 0, message);
        }
        match socket.commit(&batch, None) {
            // A handle is never used again, so what is gone is gone.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Err(NftError::Contended { what: format!("delete rules of {table}"), attempts: ATTEMPTS })
}

/// True if the Go plugins masquerade for each of these: their chain is entered, and has a rule of the owner for the
/// container's address.
pub(super) fn masquerades(socket: &Socket, intents: &[Masquerade]) -> Result<bool, NftError> {
    let entry = check::rules_of_any(socket, MASQUERADE.family.number().into(), MASQUERADE.name, "postrouting")?;
    let enters = |rule: &RuleExpressions| check::has(rule, &expr::goto(CHECKS));
    if !entry.iter().any(enters) {
        return Ok(false);
    }
    let mut rules = Vec::new();
    for_each(socket, MASQUERADE, &[CHECKS], |rule| rules.push(rule))?;
    let serves = |intent: &Masquerade, rule: &Found| {
        let from = expr::compare(Operator::Equal, expr::octets(intent.address));
        intent.owner.wrote(&rule.comment)
            && check::has(&rule.expressions, &from)
            && check::has(&rule.expressions, &raw::masquerade())
    };
    Ok(intents.iter().all(|intent| rules.iter().any(|rule| serves(intent, rule))))
}

/// A rule with a comment.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) comment: String,
    pub(super) expressions: RuleExpressions,
}

/// Calls `take` with each rule of these chains that has a comment; perhaps more than once if others change them.
pub(super) fn for_each(
    socket: &Socket,
    table: TableId,
    chains: &[&str],
    mut take: impl FnMut(Found),
) -> Result<(), NftError> {
    let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
    let question = table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    socket.dump(&format!("list the rules of {table}"), &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode("a list of rules")? else {
            return Ok(());
        };
        let (mut found, mut comment) = (Found::default(), None);
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Chain(name) => found.chain = name,
                RuleAttribute::Handle(handle) => found.handle = handle,
                RuleAttribute::UserData(bytes) => comment = raw::read_comment(&bytes),
                RuleAttribute::Expressions(list) => found.expressions = list,
                _ => {}
            }
        }
        if let Some(comment) = comment.filter(|_| chains.contains(&found.chain.as_str())) {
            take(Found { comment, ..found });
        }
        Ok(())
    })
}
