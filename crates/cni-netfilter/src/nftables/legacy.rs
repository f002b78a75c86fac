//! What the Go plugins leave in their own nftables tables: found by the comments of their rules, and removed.

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{NfTablesMessage, Operator, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::batch::Batch;
use super::check::{self, RuleExpressions};
use super::error::NftError;
use super::expr::{self, Ip};
use super::frame::{Family, TableId};
use super::raw;
use super::transport::Socket;
use crate::Masquerade;

/// Of their bridge and ptp; the rules are in `masq_checks`, their comment begins with the owner's key.
const MASQUERADE: TableId = TableId { family: Family::Inet, name: "cni_plugins_masquerade" };
/// The chain of these rules.
const CHECKS: &str = "masq_checks";
/// Of their portmap; the comment is the container ID alone.
const PORTMAP: [TableId; 2] = [
    TableId { family: Family::Only(Ip::V4), name: "cni_hostport" },
    TableId { family: Family::Only(Ip::V6), name: "cni_hostport" },
];
/// How often a deletion is tried while others delete the same rules.
const ATTEMPTS: u32 = 5;

/// Removes the rules of the Go plugins' masquerading whose comment satisfies `is_mine`. Idempotent.
pub(super) fn remove_masquerade(socket: &Socket, is_mine: impl Fn(&str) -> bool) -> Result<(), NftError> {
    remove(socket, MASQUERADE, &[CHECKS], is_mine)
}

/// Removes the rules of the Go portmap for this container. Idempotent.
///
/// The comment names the container only, so these are the container's ports of all networks, as in the Go plugin.
pub(super) fn remove_ports(socket: &Socket, container_id: &str) -> Result<(), NftError> {
    for table in PORTMAP {
        let chains = ["hostports", "hostip_hostports", "masquerading"];
        remove(socket, table, &chains, |comment| comment == container_id)?;
    }
    Ok(())
}

fn remove(socket: &Socket, table: TableId, chains: &[&str], is_mine: impl Fn(&str) -> bool) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::default();
        for (chain, handle) in find(socket, table, chains, &is_mine)? {
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
struct Found {
    chain: String,
    handle: u64,
    comment: String,
    expressions: RuleExpressions,
}

/// The chain and handle of each rule that is to go.
fn find(
    socket: &Socket,
    table: TableId,
    chains: &[&str],
    is_mine: impl Fn(&str) -> bool,
) -> Result<Vec<(String, u64)>, NftError> {
    let mut found = Vec::new();
    for_each(socket, table, chains, |rule| {
        if is_mine(&rule.comment) {
            found.push((rule.chain, rule.handle));
        }
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Calls `take` with each rule of these chains that has a comment; perhaps more than once if others change them.
fn for_each(socket: &Socket, table: TableId, chains: &[&str], mut take: impl FnMut(Found)) -> Result<(), NftError> {
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
